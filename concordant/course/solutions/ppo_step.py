"""The loss of a PPO step (Schulman et al. 2017, arXiv:1707.06347, equation 7), with a KL penalty."""

from __future__ import annotations

import torch
from torch import Tensor


def ppo_loss(
    logprob_N: Tensor,
    old_logprob_N: Tensor,
    reference_logprob_N: Tensor,
    advantage_N: Tensor,
    clip: float = 0.2,
    beta: float = 0.1,
) -> tuple[Tensor, float]:
    """The loss to minimise, and the share of tokens whose ratio lies outside 1 - clip … 1 + clip."""
    ratio_N = torch.exp(logprob_N - old_logprob_N)
    limited_N = ratio_N.clamp(1 - clip, 1 + clip)
    surrogate_N = torch.minimum(ratio_N * advantage_N, limited_N * advantage_N)
    difference_N = logprob_N - reference_logprob_N
    penalty_N = 0.5 * difference_N**2  # the estimator k2 of the KL, whose gradient is that of the KL
    clipped = float(((ratio_N - 1).abs() > clip).float().mean())
    return -surrogate_N.mean() + beta * penalty_N.mean(), clipped
