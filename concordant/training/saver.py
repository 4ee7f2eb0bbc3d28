"""When a checkpoint is due, whether the disk has room for it, and saving it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from concordant.config.train import TrainConfig
from concordant.core.errors import UserError
from concordant.training import checkpoint

SHARE = 0.04  # of the time that saving by the clock may take


class Saver:
    """Saves to ``folder`` every ``save_every`` steps and every ``save_minutes``; the clock waits longer where a save
    takes so long that it would cost more than ``SHARE`` of the time. A checkpoint changes no number of the run, so it
    does not matter when the clock asks for one."""

    def __init__(self, folder: Path, config: TrainConfig) -> None:
        self.folder, self.config = folder, config
        self.is_on = config.save_every > 0 or config.save_minutes > 0
        self._cost = 0.0  # seconds of the last save
        self._last = time.monotonic()
        self._saved_step = -1

    def due(self, step: int) -> bool:
        config, waited = self.config, time.monotonic() - self._last
        by_clock = config.save_minutes > 0 and waited >= max(60 * config.save_minutes, self._cost / SHARE)
        return by_clock or (config.save_every > 0 and step % config.save_every == 0)

    def has(self, step: int) -> bool:
        return self._saved_step == step

    def loaded(self, step: int) -> None:
        """The checkpoint of ``step`` is there already."""
        self._saved_step = step

    def save(
        self,
        step: int,
        roles: Mapping[str, Callable[[Path], None]],
        numbers: Mapping[str, Any],
        about: Mapping[str, Any],
    ) -> None:
        """Raises OSError when the disk is full; older checkpoints are kept."""
        started = time.monotonic()
        try:
            checkpoint.save(self.folder, step, roles, numbers, self.config.keep_last, about)
            self._saved_step = step
        finally:
            self._last = time.monotonic()  # after a failure too: a full disk is not asked again at every step
            self._cost = self._last - started

    def check_room(self, checkpoint_bytes: int, model_bytes: int) -> str:
        """Before the first step: UserError where not even one checkpoint and the result fit on the disk, else a
        warning where not all do that ``keep_last`` asks for, else ''."""
        one = checkpoint_bytes if self.is_on else 0
        there = sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file())
        free = shutil.disk_usage(self.folder.parent).free
        least = one + model_bytes
        all_of_them = max(0, one * (self.config.keep_last + 1) - there) + model_bytes
        if free >= all_of_them:
            return ""
        has = f"the disk of {self.folder.parent} has {_megabytes(free)} free"
        need = f"a checkpoint takes about {_megabytes(one)}, the model {_megabytes(model_bytes)}"
        if free < least:
            way_out = "make room, choose another --output, or train without checkpoints (--train.save_minutes=0)"
            raise UserError(f"{has}; {need}. {way_out}")
        return f"{has}; {need}: too little for the {self.config.keep_last} of train.keep_last and one being written"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"
