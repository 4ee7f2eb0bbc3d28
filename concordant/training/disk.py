"""How much disk a run needs, known before its first step."""

from __future__ import annotations

import shutil
from pathlib import Path

from concordant.config.train import TrainConfig

BYTES = 4  # of a weight: fp32, on disk as in memory
LOGS = 32 * 2**20  # metrics, samples, TensorBoard, tokenizer: an allowance


def disk_need(trained: int, exported: int, train: TrainConfig) -> int:
    """Bytes a run writes at most at once.

    ``trained``: weights with an optimizer, each with Adam's two moments beside it in a checkpoint, and once more as
    the best so far where ``keep_best``. ``exported``: weights of the model that is written at the end. A checkpoint
    is written whole before the oldest goes, so one more lies there than are kept.
    """
    checkpoint = trained * BYTES * (4 if train.keep_best else 3)
    saves = train.save_every or train.save_minutes
    checkpoints = train.keep_last + 1 if saves else 1  # one even where none is due: when asked to stop
    return checkpoint * checkpoints + exported * BYTES + LOGS


def disk_free(path: Path) -> int:
    """Bytes free where ``path`` is, or will be."""
    present = next(p for p in (path, *path.absolute().parents) if p.exists())
    return shutil.disk_usage(present).free
