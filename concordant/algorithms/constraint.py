"""A constraint of PPO: the mean cost of the answers is held at a limit, and its multiplier λ is learnt.

Safe RLHF, Dai et al. 2023, 2310.12773. The cost is a source like a reward: a cost model, a rule or a function.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from concordant.algorithms.rewards import Reward
from concordant.config.scoring import ConstraintConfig
from concordant.core.lagrange import dual_step, penalised


@dataclass
class Constraint:
    """The cost, its limit, and the present multiplier, which is part of every checkpoint."""

    cost: Reward
    config: ConstraintConfig
    multiplier: float = field(init=False)  # λ, normalised reward units for each cost unit

    def __post_init__(self) -> None:
        self.multiplier = self.config.multiplier

    def penalised(self, shaped_B: Tensor, cost_B: Tensor) -> Tensor:
        """The shaped rewards less λ times the costs above the limit, (B,)."""
        return penalised(shaped_B, cost_B, self.multiplier, self.config.limit)

    def update(self, mean_cost: float) -> None:
        """Take the dual step after a step of the policy whose answers cost ``mean_cost``."""
        config = self.config
        self.multiplier = dual_step(self.multiplier, mean_cost, config.limit, config.rate, config.most)

    def excess(self, mean_cost: float) -> float:
        """What a mean cost above the limit takes from the objective that chooses the best weights.

        λ moves during a run, so the highest λ stands here: two evaluations are compared by one measure.
        """
        return self.config.most * max(0.0, mean_cost - self.config.limit)
