"""The one loop that cuts trees into batches, runs a network on each, and puts its numbers in the caller's order."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from concordant.core.objective import BranchOutputs
from concordant.core.trees import ROW_TOKENS, Layout, PromptTree, TreeBatch
from concordant.models.tree_attention import batches


def forward_trees(
    run: Callable[[TreeBatch], BranchOutputs],
    body: PreTrainedModel | None,
    trees: Sequence[PromptTree],
    layout: Layout,
    device: torch.device,
    max_tokens: int,
    row_tokens: int = ROW_TOKENS,
) -> BranchOutputs:
    """What ``run`` gives for all ``trees``, in fp32 on the CPU, in the order of trees, branches and response tokens.

    ``body`` is the model that ``run`` reads trees with; it decides how a batch is laid.
    """
    tokens = sum(b.response_length for t in trees for b in t.branches)
    branches = sum(len(t.branches) for t in trees)
    columns: dict[str, Tensor] = {}
    for batch in batches(body, trees, layout, max_tokens, row_tokens):
        placed = batch.to(device)
        out = run(placed)
        for name in BranchOutputs.__slots__:
            part = getattr(out, name)
            if part is not None:
                of_token = name.endswith("_N")
                column = columns.setdefault(name, torch.zeros(tokens if of_token else branches))
                column[(placed.token_N if of_token else placed.caller_B).cpu()] = part.float().cpu()
    return BranchOutputs(**columns)
