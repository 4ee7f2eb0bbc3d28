"""Supervised fine-tuning: cross-entropy on the tokens of the responses. Every token has the same weight."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from concordant.core.objective import BranchOutputs, Evaluated, Metric, Outputs, Term
from concordant.core.trees import PromptTree, TreeBatch


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

    The order of the data stays the same, and so do the tokens that make up the gradient.
    """
    shared: list[PromptTree] = []
    for tree in trees:
        if shared and torch.equal(shared[-1].prompt_T, tree.prompt_T):
            shared[-1] = PromptTree(tree.prompt_T, shared[-1].branches + tree.branches)
        else:
            shared.append(tree)
    return shared
