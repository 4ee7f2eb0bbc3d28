"""glibc's allocator, told to keep what a training step frees and asks for again."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
NEVER = -1  # is the heap's end given back
# A tensor from so many bytes on is mapped alone and given back. Smaller ones stay as holes in the heap; cut to fit
# PyTorch's alignment, the first do not always serve the next of their size: up to eight were seen before one did.
MAPPED_ALONE = 2**28
GLIBC_TRIM, GLIBC_MMAP = 2**26, 2**25  # where glibc by itself arrives after some large tensors


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Within, what is freed stays with the process; afterwards it goes back to the system. Nothing without glibc.

    Every micro-batch frees what the next one asks for again. By itself glibc gives back at once a tensor of 32 MiB, and
    a heap's end of 64; what is asked for next comes as pages that the kernel maps and zeroes one at a time, which took
    a fifth to a third of the time of GPT-2's steps.
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
