"""Replay: the policy learns once more from the answers of a recent step, beside those of the present step.

Old answers come from an older policy μ. A token counts min(π/μ, cap) times, where π is the policy before the step's
updates, and the clip range is around π and not around μ (the decoupled objective of Hilton et al. 2021, 2110.00641,
with truncated importance weights).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from concordant.algorithms.experience import learnt_part
from concordant.core.losses import sampler_weight
from concordant.core.objective import Outputs
from concordant.core.seeding import python_stream
from concordant.core.trees import Branch, PromptTree
from concordant.engines.protocol import Scorer


class Learnt(Protocol):
    """Answers with the numbers from which the policy learns."""

    @property
    def old_logprob_N(self) -> Tensor: ...  # noqa: N802 (the field's notation)
    @property
    def reference_N(self) -> Tensor: ...  # noqa: N802
    @property
    def advantage_N(self) -> Tensor: ...  # noqa: N802
    @property
    def weight_N(self) -> Tensor | None: ...  # noqa: N802
    @property
    def learnt_B(self) -> Tensor | None: ...  # noqa: N802

    def part(self, tree_numbers: Sequence[int]) -> tuple[list[PromptTree], Tensor]:
        """The trees with these numbers, and the indices of their response tokens in the ``_N`` fields, (N,)."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """The answers of an earlier step. ``old_logprob_N`` is the sampling policy's until ``seen_by`` is called."""

    trees: list[PromptTree]
    old_logprob_N: Tensor  # nats
    reference_N: Tensor  # nats
    advantage_N: Tensor
    learnt_B: Tensor | None = None  # bool, False for an answer that nothing is learnt from; None: all are learnt from
    weight_N: Tensor | None = None

    def part(self, tree_numbers: Sequence[int]) -> tuple[list[PromptTree], Tensor]:
        return learnt_part(self.trees, tree_numbers, self.learnt_B)

    def seen_by(self, policy: Scorer) -> Remembered:
        """With the present log-probs of ``policy``, and a weight for every token."""
        now_N = policy.forward(self.trees, Outputs(logprob=True)).result().logprob_N
        assert now_N is not None
        return replace(self, old_logprob_N=now_N, weight_N=sampler_weight(now_N, self.old_logprob_N))


class Replay:
    """The answers of the last ``steps`` steps; none if ``steps`` is 0."""

    def __init__(self, steps: int, seed: int) -> None:
        self.steps, self.seed = steps, seed
        self.kept: list[Remembered] = []

    def draw(self, step: int, policy: Scorer) -> Remembered | None:
        """The answers of one of the kept steps, as ``policy`` sees them now; None if no step is kept."""
        if not self.kept:
            return None
        return python_stream(self.seed, "ppo/replay", step).choice(self.kept).seen_by(policy)

    def keep(self, trees: Sequence[PromptTree], learnt: Learnt, sampled_N: Tensor) -> None:
        """Keep these answers with the log-probs ``sampled_N`` of the policy that sampled; drop the oldest step's."""
        if self.steps:
            new = Remembered(
                trees=list(trees),
                old_logprob_N=sampled_N,
                reference_N=learnt.reference_N,
                advantage_N=learnt.advantage_N,
                learnt_B=learnt.learnt_B,
            )
            self.kept = [*self.kept, new][-self.steps :]

    # -- state ----------------------------------------------------------------------------------

    def state(self) -> list[dict[str, Any]]:
        """Plain values that JSON can hold. Of a branch with the tokens of an environment its mask is kept too."""
        return [
            {
                "trees": [[t.prompt_T.tolist(), *(b.ids_T.tolist() for b in t.branches)] for t in one.trees],
                **{name: getattr(one, name).tolist() for name in _NUMBERS},
                **({"masks": masks} if (masks := _masks(one.trees)) else {}),
                **({} if one.learnt_B is None else {"learnt_B": one.learnt_B.tolist()}),
            }
            for one in self.kept
        ]

    def load(self, state: Sequence[Mapping[str, Any]]) -> None:
        self.kept = [
            Remembered(
                trees=_trees(one["trees"], one.get("masks")),
                **{name: torch.tensor(one[name]) for name in _NUMBERS},
                learnt_B=torch.tensor(one["learnt_B"]) if "learnt_B" in one else None,
            )
            for one in state
        ]


def _masks(trees: Sequence[PromptTree]) -> list[list[list[bool]]] | None:
    """The masks of all branches; None where every branch is all response, as without an environment."""
    masks = [[b.is_response_T.tolist() for b in tree.branches] for tree in trees]
    return None if all(map(all, (mask for of_tree in masks for mask in of_tree))) else masks


def _trees(ids: Sequence[Sequence[list[int]]], masks: list[list[list[bool]]] | None) -> list[PromptTree]:
    trees = [PromptTree(torch.tensor(p), tuple(map(Branch.response, own))) for p, *own in ids]
    if masks is None:
        return trees
    return [
        PromptTree(
            tree.prompt_T,
            tuple(replace(b, is_response_T=torch.tensor(m)) for b, m in zip(tree.branches, own, strict=True)),
        )
        for tree, own in zip(trees, masks, strict=True)
    ]


_NUMBERS = ("old_logprob_N", "reference_N", "advantage_N")
