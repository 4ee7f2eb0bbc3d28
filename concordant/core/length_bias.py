"""The part of a reward that the length of an answer explains. B answers of several prompts."""

from __future__ import annotations

import torch
from torch import Tensor


def length_slope(score_B: Tensor, length_B: Tensor, group_B: Tensor) -> float:
    """Reward units for each unit of length: Σ (l - l̄)(s - s̄) / Σ (l - l̄)², where means are those of the prompt.

    The least-squares slope of a line with an intercept for each prompt, so that easy prompts with short answers do not
    count as a taste for short answers. 0 where the answers to every prompt are equally long. A linear head of length
    beside one of quality is the idea of ODIN, Chen et al. 2024, 2402.07319. Here the line is fitted afterwards, on
    held-out answers.
    """
    length_B, score_B = _centred(length_B.double(), group_B), _centred(score_B.double(), group_B)
    square = float(length_B.square().sum())
    return float((length_B * score_B).sum()) / square if square else 0.0


def without_length(score_B: Tensor, length_B: Tensor, slope: float, mean_length: float) -> Tensor:
    """s - slope · (l - mean length), (B,): an answer of the mean length keeps its score."""
    return score_B - slope * (length_B - mean_length)


def _centred(x_B: Tensor, group_B: Tensor) -> Tensor:
    """The numbers less the mean of their group, (B,)."""
    size_G = torch.bincount(group_B).to(x_B.dtype)
    mean_G = x_B.new_zeros(len(size_G)).index_add(0, group_B, x_B) / size_G
    return x_B - mean_G[group_B]
