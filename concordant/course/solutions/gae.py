"""Generalised advantage estimation (Schulman et al. 2015, arXiv:1506.02438)."""

from __future__ import annotations

import torch
from torch import Tensor


def compute_advantages(rewards_T: Tensor, values_T: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Advantages and returns of one response, (T,) each. After the last token nothing more is expected."""
    advantages_T = torch.zeros_like(rewards_T)
    following = torch.zeros(())
    for t in reversed(range(len(rewards_T))):
        next_value = values_T[t + 1] if t + 1 < len(values_T) else 0.0
        delta = rewards_T[t] + gamma * next_value - values_T[t]
        following = delta + gamma * lam * following
        advantages_T[t] = following
    return advantages_T, advantages_T + values_T
