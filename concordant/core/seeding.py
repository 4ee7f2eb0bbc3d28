"""One seed, named streams: every random draw says what it is for.

A stream depends on (seed, names) alone and never on what was drawn before, so a run that
resumes at step k draws what the uninterrupted run drew at step k.
"""

from __future__ import annotations

import hashlib
import random
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
