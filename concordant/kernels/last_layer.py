"""The last layer, computed only for the positions whose hidden state is read.

In the last layer every other token needs only its keys and values, because the read positions attend to them. Its
query, its output projection and its MLP would be computed for nothing.

Here N counts the positions that are read, and T all positions of all rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from concordant.kernels.replaced import is_made_by, subclass
from concordant.models.backbone import REFUSALS, backbone, run_backbone, undisturbed
from concordant.models.tree_attention import rows_at
from concordant.models.trial import close, two_rows

# Multiply-adds that must be saved, with all experts of a mixture counted; below this, selecting positions costs more.
WORTH = 2**24
# The usual names of the parts of a decoder layer that compute each position without looking at the other positions.
# ``put_on`` does not trust the names: it compares numbers.
CANDIDATES = ("mlp", "self_attn.q_proj", "self_attn.o_proj", "attn.c_proj")

# Indices into the flattened rows of the present call, each index once; None means that every position is computed.
_read_N: ContextVar[Tensor | None] = ContextVar("positions that the present call reads", default=None)


def put_on(model: PreTrainedModel) -> bool:
    """Make the parts of the last layer compute only the call's positions, if their numbers then stay the same."""
    parts = candidates(backbone(model))
    plain: list[Any] = [type(part) for part in parts]
    for part, kind in zip(parts, plain, strict=True):
        part.__class__ = fast(kind)
    if parts and _narrows_exactly(model):
        return True
    for part, kind in zip(parts, plain, strict=True):
        part.__class__ = kind
    return False


@contextmanager
def reading(body: nn.Module, positions: int, at_N: Tensor) -> Iterator[None]:
    """Inside the block, ``body`` computes the position-wise parts of its last layer only at ``at_N``.

    ``positions`` is the number of all positions. ``at_N`` holds indices into the flattened rows, in any order, and may
    repeat an index. At all other positions the final hidden states are finite numbers without a meaning.
    """
    parts = [part for part in candidates(body) if is_made_by(part, fast)]
    weights = sum(p.numel() for part in parts for p in part.parameters())
    if (positions - len(at_N)) * weights < WORTH:
        yield
        return
    is_read_T = torch.zeros(positions, dtype=torch.bool, device=at_N.device).index_fill_(0, at_N, True)
    with _only_at(is_read_T.nonzero().squeeze(1)):
        yield


def candidates(body: nn.Module) -> list[nn.Module]:
    """Parts of the last layer that may be position-wise; an empty list where an architecture uses other names."""
    layers = [child for child in body.children() if isinstance(child, nn.ModuleList) and len(child)]
    if len(layers) != 1:
        return []
    parts = dict(layers[0][-1].named_modules())
    return [parts[name] for name in CANDIDATES if name in parts]


@contextmanager
def _only_at(at_N: Tensor | None) -> Iterator[None]:
    token = _read_N.set(at_N)
    try:
        yield
    finally:
        _read_N.reset(token)


@cache
def fast(kind: Any) -> type[nn.Module]:
    """A subclass of ``kind`` that computes only the positions that the present call reads, with zeros elsewhere."""

    def narrowed(self: Any, whole: Tensor) -> Tensor:
        at_N = _read_N.get()
        if at_N is None:
            return kind.forward(self, whole)
        leading = whole.shape[:-1]
        with _only_at(None):  # a part inside this part gets only these positions, so it must not select again
            (out_NO,) = kind.forward(self, rows_at(whole.flatten(0, -2), at_N)[None])
        whole_TO = out_NO.new_zeros(leading.numel(), out_NO.shape[1])
        return whole_TO.index_copy(0, at_N, out_NO).view(*leading, -1)

    return subclass(kind, narrowed, fast)


def _narrows_exactly(model: PreTrainedModel) -> bool:
    """Whether the final hidden states stay the same at the computed positions and change at the others."""
    rows, _ = two_rows(model)
    read_N, unread_N = (torch.arange(start, rows.numel(), 2, device=model.device) for start in (0, 1))
    try:
        with undisturbed(model):
            whole = run_backbone(model, rows).flatten(0, 1).float()
            with _only_at(read_N):
                narrowed = run_backbone(model, rows).flatten(0, 1).float()
    except REFUSALS:
        return False
    return close(narrowed[read_N], whole[read_N]) and not close(narrowed[unread_N], whole[unread_N])
