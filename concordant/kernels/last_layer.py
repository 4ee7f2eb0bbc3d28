"""The last layer, computed only for the positions whose hidden state is read.

The other tokens need their keys and values in the last layer and nothing after them: no query, no output projection, no
MLP. Where prompts are two thirds of the tokens, this saves a twelfth of a six-layer model's products and a twelfth of
what autograd keeps.

N positions read, T positions of all rows, H hidden size.
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

WORTH = 2**24  # multiply-adds left out, all experts of a mixture counted; fewer cost less than leaving them out does
# Parts of a decoder layer that compute each position's number without the other positions, by their usual names. A
# model is believed to mean this by the names only after ``put_on`` has seen it in numbers.
CANDIDATES = ("mlp", "self_attn.q_proj", "self_attn.o_proj", "attn.c_proj")

# Indices into the flattened rows of the present call, without repetition; None: every position is computed.
_read_N: ContextVar[Tensor | None] = ContextVar("positions that the present call reads", default=None)


def put_on(model: PreTrainedModel) -> bool:
    """Let the parts of the last layer read the call's positions, if numbers show that nothing else changes."""
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
    """Within, ``body`` computes its last layer's position-wise parts at ``at_N`` of its ``positions`` alone.

    ``at_N``: indices into the flattened rows, in any order, repeated or not. Elsewhere the final hidden states are
    finite and mean nothing.
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
    """Parts of the last layer that may be position-wise; none where an architecture calls them otherwise."""
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
    """The part at the positions that the present call reads, and zeros at the others."""

    def narrowed(self: Any, whole: Tensor) -> Tensor:
        at_N = _read_N.get()
        if at_N is None:
            return kind.forward(self, whole)
        leading = whole.shape[:-1]
        with _only_at(None):  # a part may hold another part, which is given these positions alone
            (out_NK,) = kind.forward(self, rows_at(whole.flatten(0, -2), at_N)[None])
        whole_TK = out_NK.new_zeros(leading.numel(), out_NK.shape[1])
        return whole_TK.index_copy(0, at_N, out_NK).view(*leading, -1)

    return subclass(kind, narrowed, fast)


def _narrows_exactly(model: PreTrainedModel) -> bool:
    """Whether final hidden states stay what they were where the parts are computed, and change elsewhere."""
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
