"""Arithmetic over response tokens. Masked places never exist here: tokens come already selected.

N response tokens of all branches one after another, B branches, T longest branch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from concordant.config.names import AggregationName


@dataclass(frozen=True, slots=True)
class Aggregation:
    """How a number a token becomes the loss of a batch: a sum, and what the sum is divided by."""

    divides_by_length: bool  # True: every token by the tokens of its response first
    counts_tokens: bool  # True: the sum by the batch's tokens; False: by its responses
    divides_by_limit: bool = False  # True: also by the most tokens that a response may have


# token-mean: every token counts alike (DAPO, 2503.14476). seq-mean-token-sum: every response counts its sum, so long
# ones weigh more. seq-mean-token-mean: every response counts alike (GRPO, 2402.03300). seq-mean-token-sum-norm: the
# same constant for every response, so its length changes no token's weight (Dr. GRPO, 2503.20783).
AGGREGATIONS: dict[AggregationName, Aggregation] = {
    "token-mean": Aggregation(divides_by_length=False, counts_tokens=True),
    "seq-mean-token-sum": Aggregation(divides_by_length=False, counts_tokens=False),
    "seq-mean-token-mean": Aggregation(divides_by_length=True, counts_tokens=False),
    "seq-mean-token-sum-norm": Aggregation(divides_by_length=False, counts_tokens=False, divides_by_limit=True),
}


def branch_of_token(length_B: Tensor) -> Tensor:
    """Number of the branch every token belongs to, int64 (N,)."""
    return torch.repeat_interleave(torch.arange(len(length_B), device=length_B.device), length_B)


def to_rows(x_N: Tensor, length_B: Tensor, fill: float = 0.0) -> Tensor:
    """Tokens in one row a branch, (B, T); places past a branch's end hold ``fill``."""
    longest = int(length_B.max()) if len(length_B) else 0
    x_BT = x_N.new_full((len(length_B), longest), fill)
    x_BT[row_mask(length_B)] = x_N
    return x_BT


def row_mask(length_B: Tensor) -> Tensor:
    """True where ``to_rows`` holds a token, (B, T)."""
    longest = int(length_B.max()) if len(length_B) else 0
    return torch.arange(longest, device=length_B.device)[None, :] < length_B[:, None]


def from_rows(x_BT: Tensor, length_B: Tensor) -> Tensor:
    """The inverse of ``to_rows``, (N,)."""
    return x_BT[row_mask(length_B)]


def sum_by_branch(x_N: Tensor, length_B: Tensor) -> Tensor:
    """Sum over each branch's tokens, (B,)."""
    return x_N.new_zeros(len(length_B)).index_add(0, branch_of_token(length_B), x_N)


LEAST_DEVIATION = 1e-6  # of the greatest size; in fp32 a smaller deviation is rounding, which must not be divided by


def whiten(x_N: Tensor, epsilon: float = 1e-8) -> Tensor:
    """Mean 0 and deviation 1 over all tokens. Numbers that differ by no more than rounding, or a single one, give 0."""
    if not len(x_N):
        return x_N
    centred_N = x_N - x_N.mean()
    deviation = centred_N.square().mean().sqrt()
    if deviation <= LEAST_DEVIATION * x_N.abs().max():
        return torch.zeros_like(x_N)
    return centred_N / (deviation + epsilon)


def aggregate(x_N: Tensor, branch_N: Tensor, length_B: Tensor, mode: AggregationName) -> Tensor:
    """The sum whose division by ``aggregate_weight`` is the loss."""
    if AGGREGATIONS[mode].divides_by_length:
        x_N = x_N / length_B[branch_N]
    return x_N.sum()


def aggregate_weight(tokens: int, branches: int, mode: AggregationName, limit: int = 1) -> float:
    """What ``aggregate`` sums are divided by once, over the whole batch: tokens, responses, or responses × limit.

    ``limit``: the most tokens that a response may have, a constant of the run.
    """
    count = tokens if AGGREGATIONS[mode].counts_tokens else branches
    return float(count * (limit if AGGREGATIONS[mode].divides_by_limit else 1))
