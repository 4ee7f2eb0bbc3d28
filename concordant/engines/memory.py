"""Memory that ran out: told from other errors, and told with what to change. And how much of it there is."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from concordant.core.errors import RunFailed

# Of PyTorch's CPU allocator, and of oneDNN where it has none for the code of a product; neither has an error class.
SAID = ("can't allocate memory", "could not create a primitive")


def is_out_of_memory(problem: BaseException | None) -> bool:
    """Of the GPU, of Python, or of the CPU, there told by words."""
    if isinstance(problem, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(problem, RuntimeError) and any(words in str(problem) for words in SAID)


@contextmanager
def enough_memory(phase: str, cure: str) -> Iterator[None]:
    """RunFailed naming ``phase`` and ``cure`` where the block runs out of memory; its cause is the original error."""
    try:
        yield
    except (MemoryError, RuntimeError) as problem:
        if not is_out_of_memory(problem):
            raise
        raise RunFailed(f"out of memory while {phase}: {cure}") from problem


def peak_of_process() -> int:
    """Bytes this process had in memory at most."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def total_memory() -> int:
    """Bytes this process may use: the machine's, or its container's."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else "max"
    return machine if text == "max" else min(machine, int(text))
