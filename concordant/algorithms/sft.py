"""Supervised fine-tuning: cross-entropy on the tokens of the responses. Every token has the same weight."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from concordant.core.objective import BranchOutputs, Evaluated, Metric, Outputs, Term
from concordant.core.trees import PromptTree, TreeBatch

# Answers that one tree holds at most. A batch counts trees, so data with one prompt for all its answers would otherwise
# be a single example, and every step would take all of it.
SHARED = 4


@dataclass(frozen=True, slots=True)
class SFTObjective:
    """-Σ log π(token) / number of response tokens, in nats. Prompts, user turns and padding do not count."""

    want: Outputs = Outputs(logprob=True, top=True)

    def weights(self, batch: TreeBatch) -> dict[str, float]:
        return {"nll": len(batch.target_N)}

    def __call__(self, out: BranchOutputs, batch: TreeBatch) -> Evaluated:
        assert out.logprob_N is not None and out.top_N is not None
        tokens = len(batch.target_N)
        return Evaluated(
            {"nll": Term(-out.logprob_N.sum())},
            {"token_accuracy": Metric(out.top_N.sum(), tokens)},
        )


def finish(metrics: dict[str, float]) -> dict[str, float]:
    """``metrics`` with the perplexity of the response tokens."""
    return {**metrics, "perplexity": math.exp(min(metrics["nll"], 50.0))}


def share_prompts(trees: Sequence[PromptTree]) -> list[PromptTree]:
    """Join neighbouring trees that have the same prompt, so that both responses of a pair share one prompt.

    The order of the data stays the same, and so do the tokens that make up the gradient. A tree gets at most ``SHARED``
    branches. A prompt of one token is not shared, because nothing is saved: it is the start of a text without a prompt.
    """
    shared: list[PromptTree] = []
    for tree in trees:
        if shared and len(tree.prompt_T) > 1 and _can_join(shared[-1], tree):
            shared[-1] = PromptTree(tree.prompt_T, shared[-1].branches + tree.branches)
        else:
            shared.append(tree)
    return shared


def _can_join(one: PromptTree, other: PromptTree) -> bool:
    return len(one.branches) + len(other.branches) <= SHARED and torch.equal(one.prompt_T, other.prompt_T)
