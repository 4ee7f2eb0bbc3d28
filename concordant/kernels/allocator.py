"""Settings of glibc's allocator, so that a process keeps the memory that each training step frees and needs again."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
NEVER = -1  # as M_TRIM_THRESHOLD: glibc never gives the end of the heap back
# Bytes. Each larger tensor gets a mapping of its own, which goes back to the system as soon as the tensor is freed.
# A smaller tensor leaves a hole in the heap. Because of PyTorch's alignment a hole does not always fit the next tensor
# of the same size, so the heap may hold several such holes before one is used again.
MAPPED_ALONE = 2**28
GLIBC_TRIM, GLIBC_MMAP = 2**26, 2**25  # bytes; the values that glibc itself chooses after some large tensors


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Inside the block, freed memory stays with the process; at its end the memory goes back to the system.

    Every micro-batch frees memory that the next micro-batch needs again. By default glibc gives a freed tensor of
    32 MiB or more, and 64 MiB at the end of the heap, back to the system at once. The operating system must then map
    and zero new pages for the next micro-batch, which is slow. Without glibc this function does nothing.
    """
    libc = _glibc()
    if libc is None:
        yield
        return
    libc.mallopt(M_TRIM_THRESHOLD, NEVER)
    libc.mallopt(M_MMAP_THRESHOLD, MAPPED_ALONE)
    try:
        yield
    finally:
        libc.mallopt(M_TRIM_THRESHOLD, GLIBC_TRIM)
        libc.mallopt(M_MMAP_THRESHOLD, GLIBC_MMAP)
        libc.malloc_trim(0)


def give_back() -> None:
    """Give freed memory back to the system now. A caller has freed large tensors whose sizes nothing will need again.

    Without glibc this function does nothing.
    """
    if libc := _glibc():
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
