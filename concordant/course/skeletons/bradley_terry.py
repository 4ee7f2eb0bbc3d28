"""Exercise 3: the Bradley–Terry loss. Then run: concordant course check 3 exercise_3.py"""

from __future__ import annotations

from torch import Tensor


def compute_preference_loss(chosen_P: Tensor, rejected_P: Tensor) -> tuple[Tensor, float]:
    """The mean of -log σ(chosen - rejected) over the P pairs, in nats, and the accuracy.

    The loss must be finite for every finite score. A pair with equal scores counts half for the accuracy.
    """
    raise NotImplementedError
