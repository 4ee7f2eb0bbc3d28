"""Estimates before the first step how much disk a run needs."""

from __future__ import annotations

import shutil
from pathlib import Path

from concordant.config.train import TrainConfig

LOGS = 32 * 2**20  # a rough allowance for metrics, samples, TensorBoard and tokenizer


def disk_need(checkpoint: int, exported: int, train: TrainConfig) -> int:
    """The most bytes that a run has on the disk, from the bytes of a checkpoint and of the exported model.

    A new checkpoint is complete before the oldest is removed. So for a short time there is one checkpoint more than
    ``keep_last``.
    """
    saves = train.save_every or train.save_minutes
    checkpoints = train.keep_last + 1 if saves else 1  # a run that is asked to stop saves one in any case
    return checkpoint * checkpoints + exported + LOGS


def disk_free(path: Path) -> int:
    """The free bytes of the disk where ``path`` is or will be."""
    present = next(p for p in (path, *path.absolute().parents) if p.exists())
    return shutil.disk_usage(present).free
