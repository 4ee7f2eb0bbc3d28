"""Decides when a checkpoint is due, checks that the disk has room, and saves."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from concordant.config.train import TrainConfig
from concordant.core.errors import UserError
from concordant.training import checkpoint

SHARE = 0.04  # saving by the clock may take this share of the time


class Saver:
    """Saves to ``folder`` every ``save_every`` steps and every ``save_minutes``.

    If a save takes long, the clock waits longer, so that saving takes at most ``SHARE`` of the time. A checkpoint does
    not change any number of the run, so the run's result does not depend on the clock.
    """

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
        """Note that the checkpoint of ``step`` already exists."""
        self._saved_step = step

    def save(
        self,
        step: int,
        roles: Mapping[str, Callable[[Path], None]],
        numbers: Mapping[str, Any],
        about: Mapping[str, Any],
    ) -> None:
        """Save a checkpoint. Raises OSError if the disk is full; older checkpoints are kept."""
        started = time.monotonic()
        try:
            checkpoint.save(self.folder, step, roles, numbers, self.config.keep_last, about)
            self._saved_step = step
        finally:
            self._last = time.monotonic()  # after a failure too, so that a full disk is not tried again at every step
            self._cost = self._last - started

    def check_room(self, checkpoint_bytes: int, model_bytes: int) -> str:
        """Check the disk before the first step.

        Returns a warning if the disk has too little room for ``keep_last`` checkpoints, else ''.

        Raises:
            UserError: the disk has too little room for one checkpoint and the exported model.
        """
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
        return f"{has}; {need}: too little for train.keep_last = {self.config.keep_last} and one that is being written"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"
