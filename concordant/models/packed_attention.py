"""Attention inside each tree alone, so that trees stand in one row without padding and without a mask over it.

The row is cut in pieces, each attended by one call of transformers' own "sdpa": a trunk with its first branch is a
plain causal sequence; further branches look at the trunk and at themselves; small trees share a call and a mask. Time
then follows the tree's tokens, where a mask over a row of many trees would be paid for with the row's length squared.

T tokens of the row, Q of a piece, K keys a piece looks at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

NAME = "concordant_packed"
JOINT = 128  # tokens of small trees, or of one tree's further branches, that share a call: calls cost more than masks


@dataclass(frozen=True, slots=True)
class Piece:
    """Neighbouring tokens attended by one call."""

    tokens: int
    trunk: int  # tokens of the nearest piece before it without a trunk, from its start, that it sees too; 0: none
    mask_QK: Tensor | None  # to add to scores; None is causal


_pieces: ContextVar[Sequence[Piece]] = ContextVar("pieces")


def can_run(model: PreTrainedModel) -> bool:
    """Where one attention function serves all layers and nothing is computed again in the backward pass.

    On a GPU many small kernels cost more than one with a mask; a sliding window would need a mask of its own.
    """
    config = model.config.get_text_config()
    return (
        model.device.type == "cpu"
        and model._supports_attention_backend
        and config._attn_implementation == "sdpa"
        and config.to_dict().get("sliding_window") is None
        and not recomputes(model)
    )


def recomputes(model: PreTrainedModel) -> bool:
    """Whether the backward pass runs layers again, when what was set around the forward pass is gone."""
    return any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


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


@contextmanager
def attending(model: PreTrainedModel, pieces: Sequence[Piece]) -> Iterator[Tensor]:
    """Within, ``model`` attends in ``pieces``; the mask to call it with, which only keeps it from making its own."""
    config = model.config.get_text_config()
    own = config._attn_implementation
    token = _pieces.set(pieces)
    config._attn_implementation = NAME
    try:
        yield torch.zeros(1, 1, 1, 1)
    finally:
        config._attn_implementation = own
        _pieces.reset(token)


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, **settings: Any
) -> tuple[Tensor, None]:
    pieces = _pieces.get()
    sizes = [piece.tokens for piece in pieces]
    parts = []
    dtype = value.dtype
    if dtype == torch.bfloat16:  # PyTorch's kernel is slower in it and compiles code for every length, a GiB in the end
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
    return torch.cat(parts, 1).to(dtype), None


AttentionInterface.register(NAME, _attend)
