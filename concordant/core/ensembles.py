"""Ensembles of reward models: one number from the scores of k members. One table, one signature.

K members, B answers, P pairs. A policy that found an error of one member raises this member's score alone. The worst
case and the deduction for uncertainty then do not rise with it (Coste et al. 2023, 2310.02743 §3).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from concordant.config.names import EnsembleName


def mean(score_KB: Tensor, deviations: float) -> Tensor:
    """1/k Σ_i R_i, (B,).  Coste et al. 2023, 2310.02743 eq. 3. ``deviations`` does nothing here."""
    return score_KB.mean(0)


def minimum(score_KB: Tensor, deviations: float) -> Tensor:
    """min_i R_i, (B,): worst-case optimisation.  Coste et al. 2023, eq. 4. ``deviations`` does nothing here."""
    return score_KB.amin(0)


def mean_less_deviation(score_KB: Tensor, deviations: float) -> Tensor:
    """mean_i R_i - deviations · std_i R_i, (B,): uncertainty-weighted optimisation.

    Coste et al. 2023, eq. 5 deducts the variance. The standard deviation has the unit of the scores, so that
    ``deviations`` means the same for scores of every scale.
    """
    return score_KB.mean(0) - deviations * disagreement(score_KB)


def disagreement(score_KB: Tensor) -> Tensor:
    """The standard deviation of each answer's scores over the members, (B,): √(1/k Σ_i (R_i - mean)²)."""
    return score_KB.std(0, correction=0)


def bootstrap_weights(pairs: int, members: int, stream: torch.Generator) -> Tensor:
    """How often each pair counts for each member, (P, K): numbers drawn from Poisson(1), so 1 on average.

    A bootstrap draws as many pairs as there are, with replacement; a pair is then drawn about Poisson(1) times. Here
    every pair has its own draw, so that a batch needs no other pairs (online bagging, Oza & Russell 2001).
    """
    return torch.poisson(torch.ones(pairs, members), generator=stream)


ENSEMBLES: dict[EnsembleName, Callable[[Tensor, float], Tensor]] = {
    "mean": mean,
    "minimum": minimum,
    "mean-std": mean_less_deviation,
}
