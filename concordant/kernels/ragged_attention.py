"""Attention for decoding that reads only the filled part of the cache.

The attention of one token takes as long as it takes to read the keys and values. In one call, all rows would be read up
to the length of the longest row. The rows lie in the cache with roughly the longest first. So the rows are split into a
few groups, and each group is read up to its own longest row. Each group is one call of transformers' own "sdpa".
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from concordant.kernels import attention

ROWS = 4  # groups are made of so many neighbouring rows at a time; smaller groups cost more calls than they save
WASTE = 256  # cells (row × column); reading so many unused cells costs about as much as one more call


@dataclass(slots=True)
class RowGroup:
    """Neighbouring rows that share one attention call."""

    first: int
    last: int  # one past the end
    span: int  # columns that are read: at least the length of the longest row


def row_groups(lengths: Sequence[int], allowed: int = WASTE) -> list[RowGroup]:
    """Groups of rows of similar length. Each group reads at most ``allowed`` unused cells."""
    groups: list[RowGroup] = []
    waste = 0
    for first in range(0, len(lengths), ROWS):
        last = min(first + ROWS, len(lengths))
        span = max(lengths[first:last])
        if groups:
            group = groups[-1]
            joint = max(group.span, span)
            more = (joint - group.span) * (group.last - group.first) + (joint - span) * (last - first)
            if waste + more <= allowed:
                waste += more
                group.last, group.span = last, joint
                continue
        groups.append(RowGroup(first, last, span))
        waste = 0
    return groups


def attending(groups: Sequence[RowGroup]) -> AbstractContextManager[None]:
    """Inside the block, a model that has our attention function decodes one token a row in these ``groups``."""
    return attention.attending(partial(_attend, groups))


def _attend(
    groups: Sequence[RowGroup],
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    **settings: Any,
) -> Tensor:
    parts = [
        sdpa_attention_forward(
            module,
            query[group.first : group.last],
            key[group.first : group.last, :, : group.span],
            value[group.first : group.last, :, : group.span],
            attention_mask[group.first : group.last, :, :, : group.span],
            **settings,
        )[0]
        for group in groups
    ]
    return torch.cat(parts)
