"""One seed and many named streams of random numbers. Every use of random numbers has a stream of its own.

A stream depends only on the seed and the stream's names, and not on earlier draws. So a run that resumes at step k
draws the same numbers at step k as a run that was never interrupted.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the stream ``names`` of ``seed``, e.g. ``derive(0, "ppo/sample", step)``."""
    text = "/".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def python_stream(seed: int, *names: str | int) -> random.Random:
    return random.Random(derive(seed, *names))


def torch_stream(seed: int, *names: str | int, device: str = "cpu") -> torch.Generator:
    import torch

    return torch.Generator(device=device).manual_seed(derive(seed, *names))


def reseed(seed: int, *names: str | int) -> None:
    """Start the process's own generators (Python's, NumPy's, PyTorch's on every device) at the stream ``names``.

    Some code cannot be given a generator, e.g. dropout or a user's reward function. Called before every step, this
    function makes its draws depend on the step alone, so a checkpoint need not hold the generators' states.
    """
    import numpy as np
    import torch

    derived = derive(seed, *names)
    random.seed(derived)
    np.random.seed(derived % 2**32)
    torch.manual_seed(derived)


def fresh_seed() -> int:
    """A seed from PyTorch's own generator, which a run seeds again before each step."""
    import torch

    return int(torch.randint(2**62, ()))


@contextmanager
def generators_put_back() -> Iterator[None]:
    """After the block, the process's own generators are as before, because a notebook may use them too."""
    import numpy as np
    import torch

    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count())):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
