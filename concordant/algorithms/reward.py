"""Reward modelling: the Bradley–Terry loss on the scores of two answers."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from concordant.algorithms.pairs import ranked_right, sides
from concordant.core.ensembles import disagreement
from concordant.core.losses import smoothed_preference
from concordant.core.objective import BranchOutputs, Evaluated, Metric, Outputs, Term
from concordant.core.trees import TreeBatch
from concordant.runs.metrics import DISAGREEMENT


@dataclass(frozen=True, slots=True)
class RewardObjective:
    """-log σ((chosen - rejected - margin) / temperature), smoothed
    + centering · (chosen + rejected)²
    + lm_coefficient · cross-entropy for each token of the chosen answer.

    Centring: Eisenstein et al. 2023, 2312.09244 eq. 2. The language-model loss keeps the backbone's knowledge, which
    the loss on scores alone would let the model forget (InstructGPT's mix, 2203.02155 §3.5).

    Of K heads, the loss on scores is the mean over the heads, Σ_p Σ_k weight_pk loss_pk / (P · K).
    """

    margin_P: Tensor  # reward units, for all of the caller's pairs
    temperature: float = 1.0
    label_smoothing: float = 0.0
    centering: float = 0.0
    lm_coefficient: float = 0.0
    weight_PK: Tensor | None = None  # how often each of the caller's pairs counts for each head; None: one head
    want: Outputs = field(init=False)

    def __post_init__(self) -> None:
        want = Outputs(score=True, logprob=self.lm_coefficient > 0, heads=self.weight_PK is not None)
        object.__setattr__(self, "want", want)

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
        score_BK = score_B[:, None] if out.head_BK is None else out.head_BK.float()
        difference_PK = score_BK[chosen_P] - score_BK[rejected_P]
        margin_P1 = self.margin_P[pair_P, None].to(difference_PK.dtype)
        loss_PK = smoothed_preference((difference_PK - margin_P1) / self.temperature, self.label_smoothing)
        terms = {"bradley_terry": Term(self._sum(loss_PK, pair_P))}
        if self.centering:
            centre_PK = (score_BK[chosen_P] + score_BK[rejected_P]).square()
            terms["centering"] = Term(self._sum(centre_PK, pair_P), self.centering)
        if self.lm_coefficient:
            assert out.logprob_N is not None
            is_chosen_B = score_B.new_zeros(batch.branches).index_fill(0, chosen_P, 1.0)
            terms["lm"] = Term(-(out.logprob_N * is_chosen_B[batch.branch_N]).sum(), self.lm_coefficient)
        seen_P, pairs = (score_B[chosen_P] - score_B[rejected_P]).detach(), len(chosen_P)
        metrics = {
            "accuracy": Metric(ranked_right(seen_P), pairs),
            "margin": Metric(seen_P.sum(), pairs),
            "reward/chosen": Metric(score_B[chosen_P].detach().sum(), pairs),
            "reward/rejected": Metric(score_B[rejected_P].detach().sum(), pairs),
        }
        if self.weight_PK is not None:
            metrics[DISAGREEMENT] = Metric(disagreement(score_BK.detach().T).sum(), batch.branches)
        return Evaluated(terms, metrics)

    def _sum(self, x_PK: Tensor, pair_P: Tensor) -> Tensor:
        """The sum over pairs of the mean over heads, where a pair counts as often as ``weight_PK`` says."""
        if self.weight_PK is None:
            return x_PK.sum()
        return (x_PK * self.weight_PK[pair_P]).sum() / x_PK.shape[1]
