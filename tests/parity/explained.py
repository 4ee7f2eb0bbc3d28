"""Where we differ from TRL: the same numbers from our code, once the reason for the difference is put in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from concordant.algorithms.dpo import DPOObjective, reference_logprobs
from concordant.algorithms.ppo_objectives import PolicyObjective
from concordant.algorithms.sft import SFTObjective
from concordant.core import kl
from concordant.core.advantages import Returns, gae
from concordant.core.losses import clipped_surrogate
from concordant.core.objective import BranchOutputs, Evaluated, Outputs, Term
from concordant.core.trees import Branch, PromptTree, TreeBatch
from tests.parity import case, ours
from tests.parity.figures import Figures


def dpo_mean_of_means(sizes: Sequence[int]) -> Figures:
    """DPO's gradient as the mean of the micro-batches' mean gradients."""
    trees, setting = ours.pair_trees(), case.DPO["dpo/sigmoid"]
    reference = ours.policy_learner(variant=case.REFERENCE)
    parts, start = [], 0
    for size in sizes:
        some = trees[start : start + size]
        objective = DPOObjective(reference_logprobs(reference, some), setting.loss, setting.beta)
        parts.append(ours.learn(ours.policy_learner(), some, objective))
        start += size
    return _mean(parts)


def orpo_with_prompts() -> Figures:
    """ORPO whose cross-entropy is over the prompt's tokens too, the first one left out, which nothing predicts."""
    setting, learner, trees = case.ORPO, ours.policy_learner(), ours.pair_trees()
    odds = ours.learn(learner, trees, DPOObjective(torch.zeros(12), "orpo", setting.beta, lm_coefficient=-1.0))
    texts = [
        PromptTree(t.prompt_T[:1], (Branch.response(torch.cat([t.prompt_T[1:], t.branches[0].ids_T])),)) for t in trees
    ]
    text = ours.learn(learner, texts, SFTObjective())  # the gradients add up
    return Figures(odds.loss + text.loss, odds.metrics, text.gradient)


def policy_mean_of_means(name: str, given: Mapping[str, list[float]], rows: Sequence[float], size: int = 2) -> Figures:
    """The same of PPO's policy gradient, for micro-batches of ``size`` of the answers numbered ``rows``."""
    trees, lengths = ours.answer_trees(name), case.PPO_LENGTHS[name]
    ends = list(accumulate(lengths))

    def of_rows(column: str, numbers: Sequence[int]) -> Tensor:
        return torch.tensor([x for r in numbers for x in given[column][ends[r] - lengths[r] : ends[r]]])

    parts = []
    for start in range(0, len(rows), size):
        numbers = [int(r) for r in rows[start : start + size]]
        old_N = of_rows("old_logprob", numbers)
        objective = PolicyObjective(old_N, of_rows("advantage", numbers), old_N, case.PPO.clip, "token-mean")
        learner = ours.policy_learner(temperature=case.PPO.temperature)
        parts.append(ours.learn(learner, [trees[r] for r in numbers], objective))
    return _mean(parts)


def returns_past_the_end(name: str, value_P: Tensor) -> Tensor:
    """Returns if the score of an answer that ends early lay one position past its end, where the KL is 0; (P,).

    ``value_P``: old values, that position included.
    """
    judged, setting = ours.judge(name), case.PPO
    penalty_N = -setting.kl_coefficient * kl.k1(judged.old_logprob_N, judged.reference_N)
    lengths = case.PPO_LENGTHS[name]
    rewards = []
    for row, penalty_T in enumerate(penalty_N.split(list(lengths))):
        past = torch.zeros(1 if lengths[row] < max(lengths) else 0)
        rewards.append(torch.cat([penalty_T, past]))
        rewards[-1][-1] += case.SCORES[row]
    length_B = torch.tensor([len(r) for r in rewards])
    groups = torch.arange(len(rewards))
    returns = Returns(
        score_B=torch.zeros(len(length_B)),
        penalty_N=torch.cat(rewards),
        value_N=value_P,
        length_B=length_B,
        group_B=groups,
        gamma=setting.gamma,
        lam=setting.lam,
    )
    return gae(returns)[1]


def values_past_the_end(name: str, given: Mapping[str, list[float]]) -> Figures:
    """The critic's loss and gradient with that position among its tokens; which token stands there changes nothing."""
    longest = max(case.PPO_LENGTHS[name])
    trees = [
        PromptTree(torch.tensor(p.prompt), (Branch.response(ids if len(ids) == longest else [*ids, case.PAD]),))
        for p, ids in zip(case.pairs(), case.answers(name), strict=True)
    ]
    return ours.learn_values(trees, given)


def bco_mean_of_all(left_out: int) -> Figures:
    """BCO whose shift is the mean of all answers' rewards, however many are good."""
    trees, _, reference_B = ours.bco_answers(left_out)
    logratio_B = reference_logprobs(ours.policy_learner(), trees) - reference_B
    return ours.bco(left_out, float(logratio_B.mean()))


@dataclass(frozen=True)
class OneRatio:
    """PPO's loss with the ratio of the probabilities of whole answers, mean over answers."""

    old_B: Tensor  # nats an answer
    advantage_B: Tensor
    clip: float
    want: Outputs = Outputs(logprob=True)

    def weights(self, batch: TreeBatch) -> dict[str, float]:
        return {"policy/loss": batch.branches}

    def __call__(self, out: BranchOutputs, batch: TreeBatch) -> Evaluated:
        assert out.logprob_N is not None
        ratio_B = (batch.sum_by_branch(out.logprob_N) - self.old_B[batch.caller_B]).exp()
        loss_B = clipped_surrogate(ratio_B, self.advantage_B[batch.caller_B], self.clip, self.clip)
        return Evaluated({"policy/loss": Term(loss_B.sum())}, {})


def rloo_one_ratio(given: Mapping[str, list[float]]) -> Figures:
    """RLOO's loss with one ratio for an answer, on TRL's advantages and log-probs of answers."""
    old_B, advantage_B = (torch.tensor(given[column]) for column in ("old_logprob", "advantage"))
    objective = OneRatio(old_B, advantage_B, case.RLOO.ours["clip"])
    return ours.learn(ours.policy_learner(), ours.group_trees()[0], objective)


def _mean(parts: Sequence[Figures]) -> Figures:
    gradient = {n: torch.stack([p.gradient[n] for p in parts]).mean(0) for n in parts[0].gradient}
    return Figures(sum(p.loss for p in parts) / len(parts), {}, gradient)


def advantages_of_a_greater_deviation(scores: Sequence[float | None], advantage_B: Sequence[float]) -> list[float]:
    """Advantages that were divided by a group's deviation, as if 1e-4 had been added to it."""
    made = []
    for start in range(0, len(scores), case.GROUP):
        group = torch.tensor([score or 0.0 for score in scores[start : start + case.GROUP]])
        deviation = float(group.std())
        made += [a * deviation / (deviation + 1e-4) for a in advantage_B[start : start + case.GROUP]]
    return made
