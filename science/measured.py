"""Runs laws for one seed; a module of its own, because a new process cannot import ``__main__``."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import torch


def measure(names: Sequence[str], seed: int, folder: Path) -> None:
    """Run the laws for one seed; those that are finished already are left alone."""
    torch.set_num_threads(1)
    for name in names:
        file = folder / f"{name}-{seed}.json"
        if not file.is_file():
            began = _processor_seconds()
            result = importlib.import_module(f"science.{name}").measure(seed, folder)
            found = {"result": result, "processor_seconds": _processor_seconds() - began}
            file.write_text(json.dumps(found), encoding="utf-8")
            print(f"{name} seed {seed}: {found['processor_seconds']:.0f} s of processor time", flush=True)


def _processor_seconds() -> float:
    """Of this process and of the processes that it started and that ended."""
    return sum(os.times()[:4])
