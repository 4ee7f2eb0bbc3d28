"""PPO's two objectives, for policy and critic.

N response tokens of the caller's trees; a micro-batch takes those its ``token_N`` numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from concordant.config.names import AggregationName, KLEstimator, PolicyLossName
from concordant.core import kl
from concordant.core.losses import ppo_value, probability_ratio, value_clip_fraction
from concordant.core.masked import aggregate, aggregate_weight
from concordant.core.objective import BranchOutputs, Evaluated, Metric, Outputs, Term
from concordant.core.policy_losses import POLICY_LOSSES, Taken
from concordant.core.trees import TreeBatch


@dataclass(frozen=True, slots=True)
class PolicyObjective:
    """A loss of ``POLICY_LOSSES`` + coefficient · KL from the reference - coefficient · entropy.

    The surrogate of a token counts ``weight_N`` times where the sampler's distribution was not the policy's.
    """

    old_logprob_N: Tensor  # nats
    advantage_N: Tensor
    reference_N: Tensor  # nats
    clip: float
    aggregation: AggregationName
    entropy_coefficient: float = 0.0  # subtracted, so a positive one raises entropy
    kl_estimator: KLEstimator | Literal[""] = ""  # empty: no KL in the loss
    kl_coefficient: float = 0.0
    weight_N: Tensor | None = None  # None: every token counts once
    loss: PolicyLossName = "ppo"
    clip_high: float = 0.0  # 0: as ``clip``
    clip_dual: float = 3.0  # of the loss dual-clip
    limit: int = 1  # the most tokens of a response, which seq-mean-token-sum-norm divides by
    want: Outputs = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "want", Outputs(logprob=True, entropy=True, kl=self.kl_estimator == "exact"))

    def weights(self, batch: TreeBatch) -> dict[str, float]:
        weight = aggregate_weight(len(batch.target_N), batch.branches, self.aggregation, self.limit)
        return {"policy/loss": weight, "policy/kl_loss": weight, "policy/entropy_bonus": weight}

    def __call__(self, out: BranchOutputs, batch: TreeBatch) -> Evaluated:
        logprob_N, entropy_N = out.logprob_N, out.entropy_N
        assert logprob_N is not None and entropy_N is not None
        old_N, advantage_N, reference_N = (
            x_N[batch.token_N] for x_N in (self.old_logprob_N, self.advantage_N, self.reference_N)
        )

        def total(x_N: Tensor) -> Tensor:
            return aggregate(x_N, batch.branch_N, batch.length_B, self.aggregation)

        taken = Taken(
            logprob_N=logprob_N,
            old_logprob_N=old_N,
            advantage_N=advantage_N,
            branch_N=batch.branch_N,
            length_B=batch.length_B,
            low=self.clip,
            high=self.clip_high or self.clip,
            dual=self.clip_dual,
        )
        loss_N, clipped_N = POLICY_LOSSES[self.loss](taken)
        if self.weight_N is not None:
            loss_N = loss_N * self.weight_N[batch.token_N]
        terms = {"policy/loss": Term(total(loss_N))}
        if self.entropy_coefficient:
            terms["policy/entropy_bonus"] = Term(total(entropy_N), -self.entropy_coefficient)
        if self.kl_estimator:
            kl_N = (
                out.kl_N if self.kl_estimator == "exact" else kl.ESTIMATORS[self.kl_estimator](logprob_N, reference_N)
            )
            assert kl_N is not None
            terms["policy/kl_loss"] = Term(total(kl_N), self.kl_coefficient)
        return Evaluated(terms, self._metrics(logprob_N.detach(), entropy_N.detach(), old_N, clipped_N, batch))

    def _metrics(
        self, logprob_N: Tensor, entropy_N: Tensor, old_N: Tensor, clipped_N: Tensor, batch: TreeBatch
    ) -> dict[str, Metric]:
        tokens, ratio_N = len(logprob_N), probability_ratio(logprob_N, old_N)
        return {
            "policy/approx_kl": Metric(kl.k3(old_N, logprob_N).sum(), tokens),  # KL(old‖new) a token, never negative
            "policy/clip_fraction": Metric(clipped_N.sum(), tokens),
            "ratio/mean": Metric(ratio_N.sum(), tokens),
            "ratio/max": Metric(ratio_N.max(), 1.0, "max"),
            "ratio/shift": Metric((logprob_N - old_N).abs().sum(), tokens),  # nats a token
            "objective/entropy": Metric(entropy_N.sum(), batch.branches),
            "objective/entropy_per_token": Metric(entropy_N.sum(), tokens),
        }


@dataclass(frozen=True, slots=True)
class ValueObjective:
    """Clipped squared error of the critic, mean over response tokens."""

    old_value_N: Tensor  # reward units
    return_N: Tensor  # reward units
    clip: float
    coefficient: float
    want: Outputs = Outputs(value=True)

    def weights(self, batch: TreeBatch) -> dict[str, float]:
        return {"value/loss": len(batch.target_N)}

    def __call__(self, out: BranchOutputs, batch: TreeBatch) -> Evaluated:
        value_N = out.value_N
        assert value_N is not None
        old_N, return_N = (x_N[batch.token_N] for x_N in (self.old_value_N, self.return_N))
        clipped = value_clip_fraction(value_N.detach(), old_N, return_N, self.clip).sum()
        return Evaluated(
            {"value/loss": Term(ppo_value(value_N, old_N, return_N, self.clip).sum(), self.coefficient)},
            {"value/clip_fraction": Metric(clipped, len(value_N))},
        )
