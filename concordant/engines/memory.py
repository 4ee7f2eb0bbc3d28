"""Recognises an out-of-memory error, reports it with the setting to change, and measures the memory of this process."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from concordant.core.errors import RunFailed

# Messages of PyTorch's CPU allocator and of oneDNN when memory runs out. Neither has an error class of its own.
SAID = ("can't allocate memory", "could not create a primitive")


def is_out_of_memory(problem: BaseException | None) -> bool:
    """Whether memory ran out on the GPU, in Python or on the CPU. On the CPU only the message tells."""
    if isinstance(problem, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(problem, RuntimeError) and any(words in str(problem) for words in SAID)


@contextmanager
def enough_memory(phase: str, cure: str) -> Iterator[None]:
    """If the block runs out of memory, raise ``RunFailed`` from the original error, with ``phase`` and ``cure``."""
    try:
        yield
    except (MemoryError, RuntimeError) as problem:
        if not is_out_of_memory(problem):
            raise
        raise RunFailed(f"out of memory while {phase}: {cure}") from problem


def peak_of_process() -> int:
    """The most bytes that this process ever had in memory."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def available_memory() -> int:
    """Bytes that could be had now without swapping."""
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        return min(total_memory(), int(fields["MemAvailable"].split()[0]) * 1024)
    return total_memory()


def total_memory() -> int:
    """The bytes that this process may use: the memory of the machine or the limit of its container."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else "max"
    return machine if text == "max" else min(machine, int(text))
