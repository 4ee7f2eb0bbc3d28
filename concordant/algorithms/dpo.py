"""Direct preference optimisation: the policy is its own reward model, β·log π/π_ref.

Rafailov et al. 2023, 2305.18290. The reference's log-probs are computed once, before the first step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from concordant.algorithms.pairs import ranked_right, sides
from concordant.config.names import PreferenceLossName
from concordant.core.losses import PREFERENCE_LOSSES
from concordant.core.masked import sum_by_branch
from concordant.core.objective import BranchOutputs, Evaluated, Metric, Outputs, Term
from concordant.core.trees import PromptTree, TreeBatch
from concordant.engines.protocol import Scorer


@dataclass(frozen=True, slots=True)
class DPOObjective:
    """The mean over pairs of a loss of the difference (log π/π_ref of chosen) - (log π/π_ref of rejected)."""

    reference_B: Tensor  # nats, the reference's log-prob of every branch of the caller's trees, summed over tokens
    loss: PreferenceLossName
    beta: float  # reward per nat
    label_smoothing: float = 0.0
    want: Outputs = Outputs(logprob=True)

    @property
    def needs_reference(self) -> bool:
        return PREFERENCE_LOSSES[self.loss].needs_reference

    def weights(self, batch: TreeBatch) -> dict[str, float]:
        return {self.loss: batch.branches // 2}

    def __call__(self, out: BranchOutputs, batch: TreeBatch) -> Evaluated:
        assert out.logprob_N is not None
        variant = PREFERENCE_LOSSES[self.loss]
        logprob_B = batch.sum_by_branch(out.logprob_N)
        logratio_B = logprob_B - self.reference_B[batch.caller_B]
        if variant.length_mean:
            logratio_B = logratio_B / batch.length_B
        chosen_P, rejected_P, _ = sides(batch)
        difference_P = logratio_B[chosen_P] - logratio_B[rejected_P]
        loss_P = variant.of(difference_P, self.beta, self.label_smoothing)
        reward_B, pairs = (self.beta * logratio_B).detach(), len(chosen_P)
        return Evaluated(
            {self.loss: Term(loss_P.sum())},
            {
                "rewards/chosen": Metric(reward_B[chosen_P].sum(), pairs),
                "rewards/rejected": Metric(reward_B[rejected_P].sum(), pairs),
                "rewards/margins": Metric((reward_B[chosen_P] - reward_B[rejected_P]).sum(), pairs),
                "rewards/accuracies": Metric(ranked_right(difference_P.detach()), pairs),
                "logps/chosen": Metric(logprob_B[chosen_P].detach().sum(), pairs),
                "logps/rejected": Metric(logprob_B[rejected_P].detach().sum(), pairs),
            },
        )


def reference_logprobs(reference: Scorer, trees: Sequence[PromptTree]) -> Tensor:
    """The reference's log-prob of every branch of all trees, summed over response tokens, in nats."""
    out = reference.forward(trees, Outputs(logprob=True)).result()
    assert out.logprob_N is not None
    length_B = torch.tensor([b.response_length for t in trees for b in t.branches])
    return sum_by_branch(out.logprob_N, length_B)


def branches_of(numbers: Sequence[int]) -> list[int]:
    """The branch numbers of the pairs ``numbers``: for each pair the chosen branch, then the rejected one."""
    return [branch for i in numbers for branch in (2 * i, 2 * i + 1)]
