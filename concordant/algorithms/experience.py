"""The experience of one PPO step: sampled answers, with every number from which policy and critic learn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from concordant.algorithms.rollouts import Rollouts
from concordant.core.trees import PromptTree


@dataclass(frozen=True, slots=True, kw_only=True)
class Experience:
    """The answers of one step, with every number from which policy and critic learn."""

    rollouts: Rollouts
    old_logprob_N: Tensor  # nats, under the policy before the updates of this step
    reference_N: Tensor  # nats, under the reference
    value_N: Tensor  # reward units, the critic's estimate before the token; zeros without a critic
    advantage_N: Tensor  # reward units; for grpo and after whitening, a number without a unit
    return_N: Tensor  # reward units, the critic's target
    score_B: Tensor  # raw reward
    shaped_B: Tensor  # normalised, clipped, less the missing-EOS penalty; with a constraint, less the cost too
    cost_B: Tensor | None = None  # cost units; None without a constraint
    tied: float  # share of tied answers: all answers to their prompt have the same shaped reward
    agreement: float | None  # mean correlation between the axes of the reward; None if it has one axis
    # By metric: reward/abstained counts scores that were not given, reward/errors counts errors of reward functions.
    reward_counts: dict[str, float] = field(default_factory=dict)
    # The weight of each token in the policy's loss. None: each weight is 1, because the sampler drew from π.
    weight_N: Tensor | None = None
    greedy: float | None = None  # mean raw reward of the most likely answers, where the advantage compares with them
    learnt_B: Tensor | None = None  # bool, False for an answer that nothing is learnt from; None: all are learnt from

    @property
    def sampled_logprob_N(self) -> Tensor:  # noqa: N802 (the field's notation)
        """Nats under the distribution that sampled; ``old_logprob_N`` where the two are the same."""
        return self.old_logprob_N if self.weight_N is None else self.rollouts.sampler_logprob_N

    def part(self, tree_numbers: Sequence[int]) -> tuple[list[PromptTree], Tensor]:
        """The trees with these numbers, and the indices of their response tokens in the ``_N`` fields, (N,).

        Answers that nothing is learnt from are in neither, and so count in no sum and in no weight.
        """
        return learnt_part(self.rollouts.trees, tree_numbers, self.learnt_B)

    def token_rows(self, answers: int, tokenizer: Any, with_value: bool) -> list[dict[str, list[Any]]]:
        """For each of the first ``answers`` answers: its tokens as text, and the numbers of each token."""
        branches = [branch for tree in self.rollouts.trees for branch in tree.branches][:answers]
        rows, start = [], 0
        for branch in branches:
            part = slice(start, start + branch.response_length)
            numbers = {
                "logprob": self.old_logprob_N[part],
                "logratio": self.old_logprob_N[part] - self.reference_N[part],
                "advantage": self.advantage_N[part],
            } | ({"value": self.value_N[part]} if with_value else {})
            text = [tokenizer.decode([token]) for token in branch.ids_T[branch.is_response_T].tolist()]
            rows.append({"text": text, **{name: [round(x, 5) for x in x_T.tolist()] for name, x_T in numbers.items()}})
            start = part.stop
        return rows


def learnt_part(
    trees: Sequence[PromptTree], numbers: Sequence[int], learnt_B: Tensor | None
) -> tuple[list[PromptTree], Tensor]:
    """The trees with these numbers, with their learnt branches, and the numbers of these branches' tokens, (N,)."""
    learnt = [True] * sum(len(tree.branches) for tree in trees) if learnt_B is None else learnt_B.tolist()
    places, branch, start = [], 0, 0  # by tree, the branches that are learnt from, each with its first token's number
    for tree in trees:
        own = []
        for b in tree.branches:
            own += [(b, start)] if learnt[branch] else []
            branch, start = branch + 1, start + b.response_length
        places.append(own)
    kept = [(trees[i], places[i]) for i in numbers if places[i]]
    tokens = [torch.arange(at, at + b.response_length) for _, own in kept for b, at in own]
    parts = [
        tree if len(own) == len(tree.branches) else PromptTree(tree.prompt_T, tuple(b for b, _ in own))
        for tree, own in kept
    ]
    return parts, torch.cat(tokens) if tokens else torch.empty(0, dtype=torch.int64)
