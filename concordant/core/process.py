"""Settings of the process that code of others, such as a reward function, may change."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def process_put_back() -> Iterator[None]:
    """The block may change settings of the process. After it they are what they were.

    With another working directory, run folders with relative names would not be found. With other settings of PyTorch,
    the policy would learn nothing, or learn other numbers.
    """
    before = os.getcwd()
    gradients, threads, dtype = torch.is_grad_enabled(), torch.get_num_threads(), torch.get_default_dtype()
    try:
        yield
    finally:
        os.chdir(before)
        torch.set_grad_enabled(gradients)
        torch.set_default_dtype(dtype)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
