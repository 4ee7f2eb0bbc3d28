"""How much disk a run needs, known before its first step."""

from __future__ import annotations

import shutil
from pathlib import Path

from concordant.config.train import TrainConfig

LOGS = 32 * 2**20  # metrics, samples, TensorBoard, tokenizer: an allowance


def disk_need(checkpoint: int, exported: int, train: TrainConfig) -> int:
    """Bytes a run writes at most at once, of a checkpoint's bytes and those of the model that is written at the end.

    A checkpoint is written whole before the oldest goes, so one more lies there than are kept.
    """
    saves = train.save_every or train.save_minutes
    checkpoints = train.keep_last + 1 if saves else 1  # one even where none is due: when asked to stop
    return checkpoint * checkpoints + exported + LOGS


def disk_free(path: Path) -> int:
    """Bytes free where ``path`` is, or will be."""
    present = next(p for p in (path, *path.absolute().parents) if p.exists())
    return shutil.disk_usage(present).free
