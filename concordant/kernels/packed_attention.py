"""Attention inside each tree alone, so that trees stand in one row without padding and without a mask over the row.

The row is cut in pieces, and each piece is attended by one call of transformers' own "sdpa". A trunk with its first
branch is a plain causal sequence; further branches look at the trunk and at themselves; small trees share a call and a
mask. The time then follows the number of tokens of the trees. With a mask over a row of many trees it would follow the
square of the row's length.

T tokens of the row, Q of a piece, K keys a piece looks at.
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

JOINT = 128  # tokens of small trees, or of one tree's further branches, that share a call: calls cost more than masks


@dataclass(frozen=True, slots=True)
class Piece:
    """Neighbouring tokens attended by one call."""

    tokens: int
    trunk: int  # tokens of the nearest piece before it without a trunk, from its start, that it sees too; 0: none
    mask_QK: Tensor | None  # to add to scores; None is causal


def put_on(model: PreTrainedModel) -> bool:
    """Whether ``model`` attends to packed trees as it does with a mask. Nothing of the model changes.

    The model needs our attention function (attention.py). A sliding window would need a mask of its own.
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
    """Where in the flattened rows there is a token, (T,)."""
    return batch.is_token_RL.flatten().nonzero().squeeze(1)


def in_one_row(model: PreTrainedModel, batch: TreeBatch, at_T: Tensor) -> Tensor:
    """Final hidden states with all trees in one row of T tokens, each tree attended alone, (T, H)."""
    tree_T, branch_T = batch.tree_RL.flatten()[at_T], batch.branch_RL.flatten()[at_T]
    with attending(cut(tree_T.tolist(), branch_T.tolist())):
        return run_backbone(
            model,
            batch.ids_RL.flatten()[at_T][None],
            attention_mask=torch.zeros(1, 1, 1, 1),  # only keeps the model from making a mask of its own
            position_ids=batch.position_RL.flatten()[at_T][None],
        )[0]


def attending(pieces: Sequence[Piece]) -> AbstractContextManager[None]:
    """Within, a model that has our attention function attends in ``pieces``."""
    return attention.attending(partial(_attend, pieces))


def cut(tree_T: Sequence[int], branch_T: Sequence[int]) -> list[Piece]:
    """Pieces of a row whose tokens belong to these trees and branches (-1: the trunk), trunk before branches."""
    pieces: list[Piece] = []
    joint: list[list[int]] = []  # lengths of trunk and branches of small trees still to be placed
    for _, tokens in groupby(zip(tree_T, branch_T, strict=True), key=lambda pair: pair[0]):
        lengths = [len(list(run)) for _, run in groupby(branch for _, branch in tokens)]
        if sum(map(sum, joint)) + sum(lengths) > JOINT:
            pieces += _joint(joint)
            joint = []
        if sum(lengths) <= JOINT:
            joint.append(lengths)
        else:
            pieces += _apart(lengths)
    return pieces + _joint(joint)


def _apart(lengths: Sequence[int]) -> list[Piece]:
    """A tree alone: its trunk and first branch, then the other branches, as many at once as ``JOINT`` allows."""
    trunk, first, *others = lengths
    pieces = [Piece(trunk + first, 0, None)]
    group: list[int] = []
    for length in [*others, JOINT + 1]:
        if group and sum(group) + length > JOINT:
            mask_QK = torch.cat([torch.zeros(sum(group), trunk), _causal(group)], 1)
            pieces.append(Piece(sum(group), trunk, mask_QK))
            group = []
        group.append(length)
    return pieces


def _joint(trees: Sequence[Sequence[int]]) -> list[Piece]:
    if not trees:
        return []
    if len(trees) == 1 and len(trees[0]) == 2:
        return [Piece(sum(trees[0]), 0, None)]
    mask_QK = _causal([sum(tree) for tree in trees])
    start = 0
    for trunk, *branches in trees:
        at, end = start + trunk, start + trunk + sum(branches)
        for length in branches:
            mask_QK[at + length : end, at : at + length] = -torch.inf  # later siblings
            at += length
        start = end
    return [Piece(len(mask_QK), 0, mask_QK)]


def _causal(lengths: Sequence[int]) -> Tensor:
    """Sequences side by side that see themselves alone, (sum of lengths, same)."""
    return torch.block_diag(*(torch.ones(n, n).tril() for n in lengths)).log()


def _attend(
    pieces: Sequence[Piece],
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    **settings: Any,
) -> Tensor:
    sizes = [piece.tokens for piece in pieces]
    parts = []
    dtype = value.dtype
    if (
        dtype == torch.bfloat16
    ):  # PyTorch's kernel is slower in bf16 and compiles code for every length, a GiB in the end
        query, key, value = (x.float() for x in (query, key, value))
    trunk_k = trunk_v = key
    with torch.autocast("cpu", enabled=False):
        for piece, q, k, v in zip(pieces, *(x.split(sizes, dim=2) for x in (query, key, value)), strict=True):
            mask = None if piece.mask_QK is None else piece.mask_QK[None, None].to(query.dtype)
            if piece.trunk:
                k = torch.cat([trunk_k[:, :, : piece.trunk], k], 2)
                v = torch.cat([trunk_v[:, :, : piece.trunk], v], 2)
            else:
                trunk_k, trunk_v = k, v
            parts.append(sdpa_attention_forward(module, q, k, v, mask, **settings)[0])
    return torch.cat(parts, 1).to(dtype)
