"""Exercise 7: the loss of a PPO step. Then run: concordant course check 7 exercise_7.py"""

from __future__ import annotations

from torch import Tensor


def ppo_loss(
    logprob_N: Tensor,
    old_logprob_N: Tensor,
    reference_logprob_N: Tensor,
    advantage_N: Tensor,
    clip: float = 0.2,
    beta: float = 0.1,
) -> tuple[Tensor, float]:
    """The loss to minimise, and the share of tokens whose ratio lies outside 1 - clip … 1 + clip.

    The ratio is π / π_old. The surrogate of a token is min(ratio · A, clipped ratio · A), and its mean is maximised.
    The penalty is β times the mean of ½ (log π - log π_ref)². N tokens.
    """
    raise NotImplementedError
