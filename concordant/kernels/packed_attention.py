"""Attention that stays inside each tree, so that many trees fit in one row without padding and without a row-wide mask.

The row is split into segments, and each segment needs one call of transformers' own "sdpa". A trunk and its first
branch are a plain causal sequence. Further branches attend to the trunk and to themselves. Small trees share a call and
a mask. So the time grows with the number of tokens. With one mask over a row of many trees, the time would grow with
the square of the row's length.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from concordant.core.trees import Layout, TreeBatch, lay_out
from concordant.kernels import attention
from concordant.models.backbone import REFUSALS, run_backbone, sliding_window, undisturbed
from concordant.models.layout import TOLERANCE, random_trees
from concordant.models.tree_attention import hidden_states

# Tokens. Small trees, or further branches of one tree, share a call up to this size: a call costs more than a mask.
JOINT = 128


@dataclass(frozen=True, slots=True)
class Segment:
    """Neighbouring tokens that share one attention call."""

    tokens: int
    # Length of the trunk that these tokens also attend to. The trunk is the beginning of the nearest earlier segment
    # whose own ``trunk`` is 0. If ``trunk`` is 0 here, the tokens attend only to this segment.
    trunk: int
    mask_QK: Tensor | None  # is added to the attention scores; None means plain causal attention


def put_on(model: PreTrainedModel) -> bool:
    """Whether ``model`` gives the same numbers for packed trees as with a mask. The model is not changed.

    The model must have our attention function (attention.py). Sliding windows would need another mask, so a model with
    a sliding window is refused.
    """
    config = model.config.get_text_config()
    if config._attn_implementation != attention.NAME or sliding_window(config) is not None:
        return False
    batch = lay_out(random_trees(model, JOINT + 16)).to(model.device)
    try:
        with undisturbed(model):
            masked = hidden_states(model, batch, Layout.TREE)[batch.is_token_RL]
            packed = in_one_row(model, batch, tokens_of(batch))
    except REFUSALS:
        return False
    return bool((packed - masked).abs().max() <= TOLERANCE * masked.square().mean().sqrt())


def tokens_of(batch: TreeBatch) -> Tensor:
    """Indices of the real tokens in the flattened rows, shape (T,)."""
    return batch.is_token_RL.flatten().nonzero().squeeze(1)


def in_one_row(model: PreTrainedModel, batch: TreeBatch, at_T: Tensor) -> Tensor:
    """Final hidden states, (T, H), of all trees in one row of T tokens. No tree attends to another tree."""
    tree_T, branch_T = batch.tree_RL.flatten()[at_T], batch.branch_RL.flatten()[at_T]
    with attending(segments_of(tree_T.tolist(), branch_T.tolist())):
        return run_backbone(
            model,
            batch.ids_RL.flatten()[at_T][None],
            attention_mask=torch.zeros(1, 1, 1, 1),  # given so that the model does not build its own mask
            position_ids=batch.position_RL.flatten()[at_T][None],
        )[0]


def attending(segments: Sequence[Segment]) -> AbstractContextManager[None]:
    """Inside the block, a model that has our attention function attends in ``segments``."""
    return attention.attending(partial(_attend, segments))


def segments_of(tree_T: Sequence[int], branch_T: Sequence[int]) -> list[Segment]:
    """Segments of a row whose tokens belong to these trees and branches.

    Branch -1 is the trunk. Each tree's trunk comes before its branches.
    """
    segments: list[Segment] = []
    joint: list[list[int]] = []  # small trees that have no segment yet: lengths of the trunk and of each branch
    for _, tokens in groupby(zip(tree_T, branch_T, strict=True), key=lambda pair: pair[0]):
        lengths = [len(list(part)) for _, part in groupby(branch for _, branch in tokens)]
        if sum(map(sum, joint)) + sum(lengths) > JOINT:
            segments += _joint(joint)
            joint = []
        if sum(lengths) <= JOINT:
            joint.append(lengths)
        else:
            segments += _apart(lengths)
    return segments + _joint(joint)


def _apart(lengths: Sequence[int]) -> list[Segment]:
    """Segments of one large tree: first the trunk with the first branch, then groups of at most ``JOINT`` tokens."""
    trunk, first, *others = lengths
    segments = [Segment(trunk + first, 0, None)]
    group: list[int] = []
    for length in [*others, JOINT + 1]:
        if group and sum(group) + length > JOINT:
            mask_QK = torch.cat([torch.zeros(sum(group), trunk), _causal(group)], 1)
            segments.append(Segment(sum(group), trunk, mask_QK))
            group = []
        group.append(length)
    return segments


def _joint(trees: Sequence[Sequence[int]]) -> list[Segment]:
    if not trees:
        return []
    if len(trees) == 1 and len(trees[0]) == 2:
        return [Segment(sum(trees[0]), 0, None)]
    mask_QK = _causal([sum(tree) for tree in trees])
    start = 0
    for trunk, *branches in trees:
        at, end = start + trunk, start + trunk + sum(branches)
        for length in branches:
            mask_QK[at + length : end, at : at + length] = -torch.inf  # later branches must not see this branch
            at += length
        start = end
    return [Segment(len(mask_QK), 0, mask_QK)]


def _causal(lengths: Sequence[int]) -> Tensor:
    """A causal mask for sequences side by side, in which no sequence sees another; (sum of lengths, same)."""
    return torch.block_diag(*(torch.ones(n, n).tril() for n in lengths)).log()


def _attend(
    segments: Sequence[Segment],
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    **settings: Any,
) -> Tensor:
    sizes = [segment.tokens for segment in segments]
    parts = []
    dtype = value.dtype
    if dtype == torch.bfloat16:
        # PyTorch's bf16 kernel is slower on a CPU and compiles code for every length, which fills the memory.
        query, key, value = (x.float() for x in (query, key, value))
    trunk_k = trunk_v = key
    with torch.autocast("cpu", enabled=False):
        for segment, q, k, v in zip(segments, *(x.split(sizes, dim=2) for x in (query, key, value)), strict=True):
            mask = None if segment.mask_QK is None else segment.mask_QK[None, None].to(query.dtype)
            if segment.trunk:
                k = torch.cat([trunk_k[:, :, : segment.trunk], k], 2)
                v = torch.cat([trunk_v[:, :, : segment.trunk], v], 2)
            else:
                trunk_k, trunk_v = k, v
            parts.append(sdpa_attention_forward(module, q, k, v, mask, **settings)[0])
    return torch.cat(parts, 1).to(dtype)
