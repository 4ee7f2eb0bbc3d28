"""A constraint of PPO: the mean cost of the answers is held at a limit, and its multiplier λ is learnt.

Safe RLHF, Dai et al. 2023, 2310.12773. The cost is a source like a reward: a cost model, a rule or a function.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from concordant.algorithms.rewards import Reward
from concordant.config.scoring import ConstraintConfig
from concordant.core.errors import UserError
from concordant.core.lagrange import dual_step, penalised

FAR = 4.0  # held-out standard deviations; the mean cost of a step is further away only where the texts are others


@dataclass
class Constraint:
    """The cost, its limit, and the present multiplier, which is part of every checkpoint."""

    cost: Reward
    config: ConstraintConfig
    heldout: tuple[float, float] | None = None  # mean and deviation of a cost model's held-out scores, where known
    multiplier: float = field(init=False)  # λ, normalised reward units for each cost unit

    def __post_init__(self) -> None:
        self.multiplier = self.config.multiplier

    def penalised(self, shaped_B: Tensor, cost_B: Tensor) -> Tensor:
        """The shaped rewards less λ times the costs above the limit, (B,)."""
        return penalised(shaped_B, cost_B, self.multiplier, self.config.limit)

    def check(self, mean_cost: float) -> None:
        """Raises UserError if the answers of the first step are unlike all that the cost model was measured on."""
        if self.heldout is None or abs(mean_cost - self.heldout[0]) <= FAR * self.heldout[1]:
            return
        mean, deviation = self.heldout
        raise UserError(
            f"constraint.cost={self.config.cost}: the answers of the first step cost {mean_cost:.3g} on average, and "
            f"the held-out answers of the cost model {mean:.3g} ± {deviation:.3g}; it was trained for other data. "
            "Train it with `concordant reward` on answers to prompts like these"
        )

    def update(self, mean_cost: float, step: int) -> None:
        """Take the dual step after step number ``step`` of the policy, from 0, whose answers cost ``mean_cost``."""
        if step == 0:
            self.check(mean_cost)
        config = self.config
        self.multiplier = dual_step(self.multiplier, mean_cost, config.limit, config.rate, config.most)

    def excess(self, mean_cost: float) -> float:
        """What a mean cost above the limit takes from the objective that chooses the best weights.

        λ moves during a run, so the highest λ stands here: two evaluations are compared by one measure.
        """
        return self.config.most * max(0.0, mean_cost - self.config.limit)
