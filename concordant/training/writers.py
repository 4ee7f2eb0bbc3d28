"""Trackers that get a copy of the metrics. A tracker that fails is dropped with a message; the local files have all."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol


class Tracker(Protocol):
    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def close(self, done: bool = True) -> None:
        """End the record. ``done``: the run has come to its end; otherwise it failed or may be resumed."""
        ...


class TensorBoard:
    """Writes event files to ``folder``. Rows from ``first_step`` on that a killed process logged are hidden."""

    def __init__(self, folder: Path, first_step: int) -> None:
        tensorboard = importlib.import_module("torch.utils.tensorboard")  # here, because the import takes a second
        self._writer = tensorboard.SummaryWriter(str(folder), purge_step=first_step)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            if name != "step" and math.isfinite(value):
                self._writer.add_scalar(name, value, step)

    def close(self, done: bool = True) -> None:
        self._writer.close()


class Trackers:
    """All trackers of a run. None of them can stop the training."""

    def __init__(self, makers: Mapping[str, Callable[[], Tracker]], say: Callable[[str], None]) -> None:
        self._say = say
        self._active: dict[str, Tracker] = {}
        for name, make in makers.items():
            self._guard(name, lambda name=name, make=make: self._active.__setitem__(name, make()))  # type: ignore[misc]

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, tracker in list(self._active.items()):
            self._guard(name, lambda tracker=tracker: tracker.log(step, metrics))  # type: ignore[misc]

    def close(self, done: bool = True) -> None:
        for name, tracker in list(self._active.items()):
            self._guard(name, lambda tracker=tracker: tracker.close(done))  # type: ignore[misc]

    def _guard(self, name: str, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as problem:  # a tracker may fail for any reason (network, disk, version); the run goes on
            self._active.pop(name, None)
            self._say(
                f"{name} stopped ({type(problem).__name__}: {problem}); the run goes on, metrics.jsonl has it all"
            )
