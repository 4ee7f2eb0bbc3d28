"""Block masks on a GPU: many trees in one row without padding, and no work for blocks in which no token sees another.

``flex_attention`` of PyTorch gets the rule of ``models/tree_attention.py::visible`` as a function of two positions, and
which blocks of 128 × 128 tokens have anything to compute. The boolean mask over the row is this kernel's plain twin.

The kernel has not been run on a GPU (docs/gpu.md), so a model gets it only with ``--model.kernels flex``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from transformers import PreTrainedModel

from concordant.core.trees import Layout, TreeBatch, lay_out
from concordant.kernels import attention
from concordant.models.backbone import REFUSALS, run_backbone, sliding_window, undisturbed
from concordant.models.layout import TOLERANCE, random_trees
from concordant.models.tree_attention import hidden_states

BLOCK = 128  # tokens of a side of a block, PyTorch's default
# The longest row, tokens. The blocks of a row are found with one comparison for each pair of its tokens, 64 MiB here.
ROW = 8192


def put_on(model: PreTrainedModel) -> bool:
    """Whether ``model`` gives the same numbers with block masks as with a boolean mask, on two small trees.

    The model gets our attention function (attention.py). A model with a sliding window is refused, as its layers would
    need two masks.
    """
    if sliding_window(model.config.get_text_config()) is not None:
        return False
    if model.config.get_text_config()._attn_implementation != attention.NAME and not attention.put_on(model):
        return False
    batch = lay_out(random_trees(model, BLOCK + 16)[:1]).to(model.device)
    try:
        with undisturbed(model):
            masked, blocked = hidden_states(model, batch, Layout.TREE), in_blocks(model, batch)
    except REFUSALS:
        return False
    return bool((blocked - masked).abs().max() <= TOLERANCE * masked.square().mean().sqrt())


def in_blocks(model: PreTrainedModel, batch: TreeBatch) -> Tensor:
    """Final hidden states, (R, L, H), of a batch of one row, as ``core/trees.py::packed_batches`` makes them."""
    with attention.attending(partial(_attend, block_mask(batch))):
        return run_backbone(
            model,
            batch.ids_RL,
            attention_mask=torch.zeros(1, 1, 1, 1, device=batch.ids_RL.device),  # so that the model builds no mask
            position_ids=batch.position_RL,
        )


def block_mask(batch: TreeBatch) -> BlockMask:
    """The mask of a batch of one row: which token sees which, and which blocks are empty."""
    tree_L, branch_L = batch.tree_RL[0], batch.branch_RL[0]

    def sees(_row: Tensor, _head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        same_branch = (branch_L[k] == -1) | (branch_L[k] == branch_L[q])
        return (q >= k) & (tree_L[q] == tree_L[k]) & same_branch

    length = len(tree_L)
    return create_block_mask(sees, None, None, length, length, device=str(tree_L.device), BLOCK_SIZE=BLOCK)


def _attend(
    mask: BlockMask,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    *,
    scaling: float | None = None,
    **settings: Any,
) -> Tensor:
    # Without compilation the scores of all tokens would be stored. A CPU has no gradient for the compiled kernel.
    attend: Any = _compiled() if query.is_cuda else flex_attention
    grouped = query.shape[1] != key.shape[1]
    out = attend(query, key.to(query.dtype), value.to(query.dtype), block_mask=mask, scale=scaling, enable_gqa=grouped)
    assert isinstance(out, Tensor)
    return out.transpose(1, 2).contiguous()


@cache
def _compiled() -> Callable[..., Any]:
    """The kernel for rows of any length: without ``dynamic`` every new length would be compiled again."""
    return torch.compile(flex_attention, dynamic=True)
