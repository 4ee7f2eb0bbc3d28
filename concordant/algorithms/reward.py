"""Reward modelling: the Bradley–Terry loss on the scores of two answers."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from concordant.algorithms.pairs import ranked_right, sides
from concordant.core.losses import smoothed_preference
from concordant.core.objective import BranchOutputs, Evaluated, Metric, Outputs, Term
from concordant.core.trees import TreeBatch


@dataclass(frozen=True, slots=True)
class RewardObjective:
    """-log σ((chosen - rejected - margin) / temperature), smoothed
    + centering · (chosen + rejected)²
    + lm_coefficient · cross-entropy for each token of the chosen answer.

    Centring: Eisenstein et al. 2023, 2312.09244 eq. 2. The language-model loss keeps the backbone's knowledge, which
    the loss on scores alone would let the model forget (InstructGPT's mix, 2203.02155 §3.5).
    """

    margin_P: Tensor  # reward units, for all of the caller's pairs
    temperature: float = 1.0
    label_smoothing: float = 0.0
    centering: float = 0.0
    lm_coefficient: float = 0.0
    want: Outputs = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "want", Outputs(score=True, logprob=self.lm_coefficient > 0))

    def weights(self, batch: TreeBatch) -> dict[str, float]:
        pairs = batch.branches // 2
        weights: dict[str, float] = {"bradley_terry": pairs, "centering": pairs}
        if self.lm_coefficient:
            weights["lm"] = int(batch.length_B[sides(batch)[0]].sum())
        return weights

    def __call__(self, out: BranchOutputs, batch: TreeBatch) -> Evaluated:
        assert out.score_B is not None
        chosen_P, rejected_P, pair_P = sides(batch)
        score_B = out.score_B.float()
        difference_P = score_B[chosen_P] - score_B[rejected_P]
        margin_P = self.margin_P[pair_P].to(difference_P.dtype)
        loss_P = smoothed_preference((difference_P - margin_P) / self.temperature, self.label_smoothing)
        terms = {"bradley_terry": Term(loss_P.sum())}
        if self.centering:
            terms["centering"] = Term((score_B[chosen_P] + score_B[rejected_P]).square().sum(), self.centering)
        if self.lm_coefficient:
            assert out.logprob_N is not None
            is_chosen_B = score_B.new_zeros(batch.branches).index_fill(0, chosen_P, 1.0)
            terms["lm"] = Term(-(out.logprob_N * is_chosen_B[batch.branch_N]).sum(), self.lm_coefficient)
        seen_P, pairs = difference_P.detach(), len(chosen_P)
        return Evaluated(
            terms,
            {
                "accuracy": Metric(ranked_right(seen_P), pairs),
                "margin": Metric(seen_P.sum(), pairs),
                "reward/chosen": Metric(score_B[chosen_P].detach().sum(), pairs),
                "reward/rejected": Metric(score_B[rejected_P].detach().sum(), pairs),
            },
        )
