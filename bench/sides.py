"""What every side does alike, ours and the peers': weights, a clock and memory. Needs torch and transformers only."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from bench.turns import Turns, peak_mib


def weights(kind: Any, folder: Path, device: str) -> Any:
    """``kind`` (an Auto class) with the weights saved in ``folder``; where it holds a configuration alone, with random
    ones of one seed, made on the device, so that every process has the same."""
    if (folder / "model.safetensors").is_file():
        return kind.from_pretrained(folder).to(device)
    torch.manual_seed(0)
    with torch.device(device):
        return kind.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32)


class Clock:
    """Seconds of a turn; a GPU's work is waited for."""

    def __init__(self, turns: Turns) -> None:
        self.turns, self._start = turns, 0.0

    def wait(self) -> None:
        """For the turn; the clock starts with it."""
        self.turns.wait()
        self._start = now()

    def seconds(self) -> float:
        return now() - self._start

    def report(self, **numbers: Any) -> None:
        """The turn's numbers and memory; the time until now, where none is among them."""
        self.turns.report(**({"seconds": self.seconds(), "peak_mib": memory_mib()} | numbers))


def now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def memory_mib() -> float:
    """Most memory so far: of the GPU where there is one, else of the process."""
    return torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else peak_mib()
