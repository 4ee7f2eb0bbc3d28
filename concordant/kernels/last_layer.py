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
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from concordant.kernels.replaced import is_made_by, subclass, whole_elements
from concordant.models.backbone import REFUSALS, backbone, run_backbone, undisturbed
from concordant.models.tree_attention import rows_at
from concordant.models.trial import close, two_rows

# Multiply-adds that must be saved, with all experts of a mixture counted; below this, selecting positions costs more.
WORTH = 2**24
# The usual names of the parts of a decoder layer that compute each position without looking at the other positions.
# ``put_on`` does not trust the names: it compares numbers.
CANDIDATES = ("mlp", "self_attn.q_proj", "self_attn.o_proj", "attn.c_proj")


class Places(NamedTuple):
    """The positions that a call computes. Both fields are int64 indices into the flattened rows."""

    source_N: Tensor
    # Where the result goes, each position once. An index past the rows belongs to a result that nobody reads.
    target_N: Tensor
    spare: int = 0  # how many indices past the rows there are


_places: ContextVar[Places | None] = ContextVar("positions that the present call computes; None: all", default=None)


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
    weights = sum(map(whole_elements, parts))  # of whole layers, so that every mesh decides alike
    if (positions - len(at_N)) * weights < WORTH:
        yield
        return
    is_read_T = torch.zeros(positions, dtype=torch.bool, device=at_N.device).index_fill_(0, at_N, True)
    with _only_at(_exactly(is_read_T) if at_N.device.type == "cpu" else _padded(is_read_T, len(at_N))):
        yield


def _exactly(is_read_T: Tensor) -> Places:
    at_N = is_read_T.nonzero().squeeze(1)
    return Places(at_N, at_N)


def _padded(is_read_T: Tensor, size: int) -> Places:
    """``size`` places, which are at least as many as are read.

    The processor would wait for a GPU to count how many are read. So the number of places is fixed, and the last ones
    compute some position once more, for nobody.
    """
    positions = len(is_read_T)
    count_T = torch.arange(positions, device=is_read_T.device)
    place_T = torch.where(is_read_T, is_read_T.cumsum(0) - 1, size)
    target_N = torch.full((size + 1,), positions, device=is_read_T.device).scatter_(0, place_T, count_T)[:size]
    return Places(target_N.clamp(max=positions - 1), target_N, spare=1)


def candidates(body: nn.Module) -> list[nn.Module]:
    """Parts of the last layer that may be position-wise; an empty list where an architecture uses other names."""
    layers = [child for child in body.children() if isinstance(child, nn.ModuleList) and len(child)]
    if len(layers) != 1:
        return []
    parts = dict(layers[0][-1].named_modules())
    return [parts[name] for name in CANDIDATES if name in parts]


@contextmanager
def _only_at(places: Places | None) -> Iterator[None]:
    token = _places.set(places)
    try:
        yield
    finally:
        _places.reset(token)


@cache
def fast(kind: Any) -> type[nn.Module]:
    """A subclass of ``kind`` that computes only the positions that the present call reads, with zeros elsewhere."""

    def narrowed(self: Any, whole: Tensor) -> Tensor:
        places = _places.get()
        if places is None:
            return kind.forward(self, whole)
        leading = whole.shape[:-1]
        with _only_at(None):  # a part inside this part gets only these positions, so it must not select again
            (out_NO,) = kind.forward(self, rows_at(whole.flatten(0, -2), places.source_N)[None])
        whole_TO = out_NO.new_zeros(leading.numel() + places.spare, out_NO.shape[1])
        whole_TO = whole_TO.index_copy(0, places.target_N, out_NO)
        return (whole_TO[: leading.numel()] if places.spare else whole_TO).view(*leading, -1)

    return subclass(kind, narrowed, fast)


def _narrows_exactly(model: PreTrainedModel) -> bool:
    """Whether the final hidden states stay the same at the computed positions and change at the others."""
    rows, _ = two_rows(model)
    read_N, unread_N = (torch.arange(start, rows.numel(), 2, device=model.device) for start in (0, 1))
    try:
        with undisturbed(model):
            whole = run_backbone(model, rows).flatten(0, 1).float()
            with _only_at(Places(read_N, read_N)):
                narrowed = run_backbone(model, rows).flatten(0, 1).float()
    except REFUSALS:
        return False
    return close(narrowed[read_N], whole[read_N]) and not close(narrowed[unread_N], whole[unread_N])
