"""The one loop that runs a network on batches of trees and returns the numbers in the caller's order."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from concordant.core.alive import sign_of_life
from concordant.core.objective import BranchOutputs
from concordant.core.trees import PromptTree, TreeBatch


def forward_trees(
    run: Callable[[TreeBatch], BranchOutputs],
    trees: Sequence[PromptTree],
    batches: Sequence[TreeBatch],
    device: torch.device,
) -> BranchOutputs:
    """The outputs of ``run`` for all ``trees``, in fp32 on the CPU, in the order of trees, branches and tokens.

    ``batches`` holds the same trees, split as the network reads them best (``Reader.batches``).
    """
    tokens = sum(b.response_length for t in trees for b in t.branches)
    branches = sum(len(t.branches) for t in trees)
    columns: dict[str, Tensor] = {}  # on the device, so that the processor waits once for each and not in every batch
    for number, batch in enumerate(batches):
        sign_of_life("forward passes", number, len(batches))
        placed = batch.to(device)
        out = run(placed)
        for name in BranchOutputs.__slots__:
            part = getattr(out, name)
            if part is not None:
                of_token = name.endswith("_N")
                if name not in columns:
                    columns[name] = torch.zeros(tokens if of_token else branches, *part.shape[1:], device=device)
                columns[name][placed.token_N if of_token else placed.caller_B] = part.float()
    return BranchOutputs(**{name: column.cpu() for name, column in columns.items()})
