"""A constraint on the mean cost of answers: max over the policy, min over λ ≥ 0, of E[R] - λ · (E[C] - limit).

Safe RLHF, Dai et al. 2023, 2310.12773 eq. 10, where the limit is -d. B answers.
"""

from __future__ import annotations

import math

from torch import Tensor

LEAST_MULTIPLIER = 0.01  # the step of ln λ is proportional to λ, so a λ near 0 would never rise again


def penalised(reward_B: Tensor, cost_B: Tensor, multiplier: float, limit: float) -> Tensor:
    """(R - λ · (C - limit)) / (1 + λ), (B,).

    Safe RLHF's eq. 29 weights the advantages of reward and cost so. The division keeps the size of a step when λ grows.
    The limit changes no advantage. It keeps the numbers near those of the reward.
    """
    return (reward_B - multiplier * (cost_B - limit)) / (1 + multiplier)


def dual_step(multiplier: float, mean_cost: float, limit: float, rate: float, most: float) -> float:
    """ln λ += rate · λ · (mean cost - limit), with λ held in [``LEAST_MULTIPLIER``, ``most``].

    Safe RLHF's eq. 31. The step is one of gradient ascent on λ · (E[C] - limit) in ln λ, which keeps λ above 0.
    """
    moved = math.log(multiplier) + rate * multiplier * (mean_cost - limit)
    return math.exp(min(max(moved, math.log(LEAST_MULTIPLIER)), math.log(most)))
