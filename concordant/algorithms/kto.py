"""Learning from single answers that were rated good or bad: KTO, BCO and unpaired APO-zero.

Ethayarajh et al. 2024, 2402.01306. A loss looks at how far an answer's log-ratio log π/π_ref leads from an anchor. The
anchor is one number for the whole batch. It is estimated before the gradient pass and travels in the objective, so
micro-batches, layouts and workers cannot change a gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from concordant.algorithms.dpo import reference_logprobs
from concordant.config.names import PreferenceLossName
from concordant.core.errors import UserError
from concordant.core.objective import BranchOutputs, Evaluated, Metric, Outputs, Term
from concordant.core.pair_losses import rated_loss
from concordant.core.trees import PromptTree, TreeBatch
from concordant.engines.protocol import Scorer

GOOD, BAD = "count/chosen", "count/rejected"


@dataclass(frozen=True, slots=True, kw_only=True)
class KTOObjective:
    """The mean over answers of weight · loss(lead), where lead is x - anchor of a good answer and anchor - x of a bad
    one, and x its log-ratio."""

    reference_B: Tensor  # nats, the reference's log-prob of every branch of the caller's trees, summed over tokens
    is_good_B: Tensor  # bool, for every branch of the caller's trees
    anchor: float  # nats
    loss: PreferenceLossName
    beta: float  # reward per nat
    good_weight: float = 1.0  # λ_D of the paper
    bad_weight: float = 1.0  # λ_U
    want: Outputs = Outputs(logprob=True)
    needs_reference: bool = True

    def weights(self, batch: TreeBatch) -> dict[str, float]:
        return {self.loss: batch.branches}

    def __call__(self, out: BranchOutputs, batch: TreeBatch) -> Evaluated:
        assert out.logprob_N is not None
        logprob_B = batch.sum_by_branch(out.logprob_N)
        logratio_B = logprob_B - self.reference_B[batch.caller_B]
        good_B = self.is_good_B[batch.caller_B].to(logprob_B.dtype)
        lead_B = (2 * good_B - 1) * (logratio_B - self.anchor)
        weight_B = good_B * self.good_weight + (1 - good_B) * self.bad_weight
        loss_B = weight_B * rated_loss(self.loss).of(lead_B, self.beta)
        reward_B, logprob_B = (self.beta * logratio_B).detach(), logprob_B.detach()
        good, bad = good_B.sum(), (1 - good_B).sum()
        return Evaluated(
            {self.loss: Term(loss_B.sum())},
            {
                "rewards/chosen": Metric((good_B * reward_B).sum(), good),
                "rewards/rejected": Metric(((1 - good_B) * reward_B).sum(), bad),
                "logps/chosen": Metric((good_B * logprob_B).sum(), good),
                "logps/rejected": Metric(((1 - good_B) * logprob_B).sum(), bad),
                GOOD: Metric(good, reduce="sum"),
                BAD: Metric(bad, reduce="sum"),
                "rewards/anchor": Metric(reward_B.new_tensor(self.anchor)),
            },
        )


def finish(metrics: dict[str, float]) -> dict[str, float]:
    """``metrics`` without the means of a side that has no answer, and with ``rewards/margins`` if both sides have."""
    sides = {"chosen": metrics[GOOD], "rejected": metrics[BAD]}
    gone = {f"{kind}/{side}" for side, count in sides.items() if not count for kind in ("rewards", "logps")}
    left = {name: value for name, value in metrics.items() if name not in gone}
    if all(sides.values()):
        left["rewards/margins"] = left["rewards/chosen"] - left["rewards/rejected"]
    return left


def mismatched(trees: Sequence[PromptTree], others: Sequence[PromptTree], longest: int = 2**30) -> list[PromptTree]:
    """For each tree its prompt with the answers of a tree of ``others`` that has another prompt.

    The i-th tree takes the first such tree after the i-th of ``others``, in a circle. A trunk is cut at its start where
    the two together would have more than ``longest`` tokens. UserError if there is no answer to another prompt.
    """
    made, names = [], [other.prompt_T.numpy().tobytes() for other in others]
    if trees and set(names) <= {trees[0].prompt_T.numpy().tobytes()}:
        raise UserError(
            "kto estimates a KL from answers to other prompts, and the data has one prompt alone; give data with more "
            "prompts, or use --loss bco or apo_zero_unpaired"
        )
    for i, tree in enumerate(trees):
        own, j = tree.prompt_T.numpy().tobytes(), (i + 1) % len(others)
        while names[j] == own:
            j = (j + 1) % len(others)
        answers = others[j].branches
        room = max(1, longest - max(len(b.ids_T) for b in answers))
        made.append(PromptTree(tree.prompt_T[-room:], answers))
    return made


def kl_estimate(policy: Scorer, reference_B: Tensor, trees: Sequence[PromptTree]) -> float:
    """z0 = max(0, mean of log π/π_ref over the answers of ``trees``, which answer other prompts), nats.

    Ethayarajh et al. 2024, 2402.01306 §4.1. ``reference_B``: the reference's log-probs of these answers.
    """
    return max(0.0, float((reference_logprobs(policy, trees) - reference_B).mean()))


def middle(policy: Scorer, reference_B: Tensor, is_good_B: Tensor, trees: Sequence[PromptTree]) -> float:
    """BCO's δ/β over the batch: the mean of the good answers' mean log-ratio and of the bad answers', nats.

    Jung et al. 2024, 2404.04656 eq. 8. If a side has no answer, the mean of the other side.
    """
    logratio_B = reference_logprobs(policy, trees) - reference_B
    means = [float(logratio_B[side_B].mean()) for side_B in (is_good_B, ~is_good_B) if bool(side_B.any())]
    return sum(means) / len(means)
