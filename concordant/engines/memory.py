"""Memory that ran out: told from other errors, and told with what to change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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
