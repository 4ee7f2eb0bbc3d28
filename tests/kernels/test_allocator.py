"""Memory that is freed stays within a run, and goes back after it."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PAGES = """
import resource
import torch
from concordant.kernels.allocator import freed_memory_kept, give_back

def faults():  # pages the kernel has to bring for 20 tensors of 64 MiB, one after another
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

usual, start = faults(), resident()
with freed_memory_kept():
    faults()  # the heap settles
    kept = faults()
    assert resident() - start > 2**25, "a tensor's memory is still here"
    give_back()
    assert resident() - start < 2**25, "it went when that was asked for"
    faults()
    assert resident() - start > 2**25, "the next one stays again"
assert kept < usual / 2, (kept, usual)
assert resident() - start < 2**25, "and now it is not"
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")
def test_pages_stay_for_the_next_tensor_and_go_back_at_the_end():
    """In a process of its own: what other tests have left in the heap would be used first."""
    subprocess.run([sys.executable, "-c", PAGES], check=True)
