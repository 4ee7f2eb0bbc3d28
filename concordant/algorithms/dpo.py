"""Direct preference optimisation: the policy is its own reward model, β·log π/π_ref.

Rafailov et al. 2023, 2305.18290, and the losses after it that learn from pairs. Where a loss needs a reference, its
log-probs are computed once, before the first step. Losses of single answers are in kto.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from concordant.algorithms.pairs import ranked_right, sides
from concordant.config.names import FDivergenceName, PreferenceLossName
from concordant.core.masked import sum_by_branch
from concordant.core.objective import BranchOutputs, Evaluated, Metric, Outputs, Term
from concordant.core.pair_losses import F_DIVERGENCES, PreferenceLoss, Share, pair_loss
from concordant.core.trees import PromptTree, TreeBatch
from concordant.engines.protocol import Scorer


@dataclass(frozen=True, slots=True)
class DPOObjective:
    """The mean over pairs of a loss, or of several with weights. What a loss compares: core/pair_losses.py.

    ``label_smoothing`` and ``margin`` are one number, or a number for each of the caller's pairs: the share of people
    who chose the other answer, and the reward units by which the chosen answer must lead.
    """

    reference_B: Tensor  # nats, the reference's log-prob of every branch of the caller's trees, summed over tokens
    loss: PreferenceLossName
    beta: float  # reward per nat
    label_smoothing: Share = 0.0
    want: Outputs = Outputs(logprob=True)
    _: KW_ONLY
    margin: Share = 0.0
    plus: tuple[tuple[PreferenceLossName, float], ...] = ()  # further losses with their weights
    lm_coefficient: float = 0.0  # weight of the chosen answers' cross-entropy a token, beside a loss's own
    f_divergence: FDivergenceName = "reverse_kl"
    f_alpha: float = 0.5

    @property
    def needs_reference(self) -> bool:
        return any(pair_loss(name).needs_reference for name, _ in self._losses)

    @property
    def _losses(self) -> tuple[tuple[PreferenceLossName, float], ...]:
        return ((self.loss, 1.0), *self.plus)

    @property
    def _lm(self) -> float:
        return self.lm_coefficient + sum(weight * pair_loss(name).lm for name, weight in self._losses)

    def weights(self, batch: TreeBatch) -> dict[str, float]:
        weights: dict[str, float] = {name: batch.branches // 2 for name, _ in self._losses}
        if self._lm:
            weights["lm"] = int(batch.length_B[sides(batch)[0]].sum())
        return weights

    def __call__(self, out: BranchOutputs, batch: TreeBatch) -> Evaluated:
        assert out.logprob_N is not None
        logprob_B = batch.sum_by_branch(out.logprob_N)
        chosen_P, rejected_P, pair_P = sides(batch)
        smoothing, margin = _of_pairs(self.label_smoothing, pair_P), _of_pairs(self.margin, pair_P)
        terms: dict[str, Term] = {}
        for name, weight in self._losses:
            x_B = self.compared(pair_loss(name), logprob_B, batch)
            loss_P = pair_loss(name)(x_B[chosen_P], x_B[rejected_P], self.beta, smoothing, margin)
            terms[name] = Term(loss_P.sum(), weight)
        if self._lm:
            is_chosen_B = logprob_B.new_zeros(batch.branches).index_fill(0, chosen_P, 1.0)
            terms["lm"] = Term(-(logprob_B * is_chosen_B).sum(), self._lm)
        x_B = self.compared(pair_loss(self.loss), logprob_B, batch).detach()
        reward_B, pairs = self.beta * x_B, len(chosen_P)
        return Evaluated(
            terms,
            {
                "rewards/chosen": Metric(reward_B[chosen_P].sum(), pairs),
                "rewards/rejected": Metric(reward_B[rejected_P].sum(), pairs),
                "rewards/margins": Metric((reward_B[chosen_P] - reward_B[rejected_P]).sum(), pairs),
                "rewards/accuracies": Metric(ranked_right(x_B[chosen_P] - x_B[rejected_P]), pairs),
                "logps/chosen": Metric(logprob_B[chosen_P].detach().sum(), pairs),
                "logps/rejected": Metric(logprob_B[rejected_P].detach().sum(), pairs),
            },
        )

    def compared(self, loss: PreferenceLoss, logprob_B: Tensor, batch: TreeBatch) -> Tensor:
        """The number of every branch that ``loss`` compares, nats."""
        x_B = logprob_B
        if loss.needs_reference:
            x_B = F_DIVERGENCES[self.f_divergence](logprob_B - self.reference_B[batch.caller_B], self.f_alpha)
        return x_B / batch.length_B if loss.length_mean else x_B


def _of_pairs(numbers: Share, pair_P: Tensor) -> Share:
    """The numbers of the pairs of a micro-batch, from those of all pairs of the caller."""
    return numbers[pair_P] if isinstance(numbers, Tensor) else numbers


def reference_logprobs(reference: Scorer, trees: Sequence[PromptTree]) -> Tensor:
    """The reference's log-prob of every branch of all trees, summed over response tokens, in nats."""
    out = reference.forward(trees, Outputs(logprob=True)).result()
    assert out.logprob_N is not None
    length_B = torch.tensor([b.response_length for t in trees for b in t.branches])
    return sum_by_branch(out.logprob_N, length_B)


def branches_of(numbers: Sequence[int]) -> list[int]:
    """The branch numbers of the pairs ``numbers``: for each pair the chosen branch, then the rejected one."""
    return [branch for i in numbers for branch in (2 * i, 2 * i + 1)]
