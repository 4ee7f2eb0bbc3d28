"""Memory that ran out, told from other errors and with what to change; and memory that is soon wanted again, kept."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from concordant.core.errors import RunFailed

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
NEVER = -1  # is the heap's end given back
# A tensor from so many bytes on is mapped alone and given back. Smaller ones, asked for 64 bytes aligned, do not always
# fit where one like them was: up to eight holes may stand in the heap before one serves the next.
MAPPED_ALONE = 2**28
GLIBC_TRIM, GLIBC_MMAP = 2**26, 2**25  # where glibc by itself arrives after some large tensors


def is_out_of_memory(problem: BaseException | None) -> bool:
    """Of the GPU, of Python, or of PyTorch's CPU allocator, which has no error class of its own."""
    if isinstance(problem, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(problem, RuntimeError) and "can't allocate memory" in str(problem)


@contextmanager
def enough_memory(phase: str, cure: str) -> Iterator[None]:
    """RunFailed naming ``phase`` and ``cure`` where the block runs out of memory; its cause is the original error."""
    try:
        yield
    except (MemoryError, RuntimeError) as problem:
        if not is_out_of_memory(problem):
            raise
        raise RunFailed(f"out of memory while {phase}: {cure}") from problem


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Within, what is freed stays with the process; afterwards it goes back to the system. Nothing without glibc.

    Every micro-batch frees what the next one asks for again. By itself glibc gives back at once a tensor of 32 MiB, and
    a heap's end of 64; what is asked for next comes as pages that the kernel maps and zeroes one at a time, which took
    a fifth of the time of GPT-2's steps.
    """
    if platform.libc_ver()[0] != "glibc":
        yield
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(M_TRIM_THRESHOLD, NEVER)
    libc.mallopt(M_MMAP_THRESHOLD, MAPPED_ALONE)
    try:
        yield
    finally:
        libc.mallopt(M_TRIM_THRESHOLD, GLIBC_TRIM)
        libc.mallopt(M_MMAP_THRESHOLD, GLIBC_MMAP)
        libc.malloc_trim(0)
