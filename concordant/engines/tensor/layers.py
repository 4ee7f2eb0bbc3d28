"""The usual plan: layers whose outputs are split (columns), then layers whose inputs are split (rows).

    columns:  y_r = x W_r             x is whole; each process computes some columns of y
    rows:     y = Σ_r x_r W_r + b     each process has some columns of x; the sum over processes is whole

So a pair of layers needs one sum forward and one backward (Shoeybi et al. 2019, 1909.08053). The sum over r is a sum
over a part of the inner dimension of the product, so its bits depend on the number of processes; ``exact.py`` has the
plan whose bits do not.

The functions here are makers of subclasses (kernels/replaced.py): a layer keeps its name and its weights' names.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (the field's name for it)
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from concordant.core.axis import Axis
from concordant.engines.tensor.cuts import Cut
from concordant.engines.tensor.exchange import spread, summed, whole
from concordant.kernels import weight_gradients
from concordant.kernels.replaced import subclass

SHARE = "concordant_share"  # attribute of a split layer

_parts_of_logits: ContextVar[bool] = ContextVar("logits stay parts in the present call", default=False)


@dataclass(frozen=True, slots=True)
class Share:
    """How a layer is split. ``inputs`` and ``outputs`` are the columns of which a process has a part; None: whole."""

    axis: Axis
    inputs: Cut | None = None
    outputs: Cut | None = None
    fast: bool = True  # products by kernels/weight_gradients.py


def share_of(layer: Any) -> Share:
    return vars(layer)[SHARE]


@contextmanager
def logits_in_parts() -> Iterator[None]:
    """Inside the block, an output head gives this process's part of the vocabulary and not the whole."""
    token = _parts_of_logits.set(True)
    try:
        yield
    finally:
        _parts_of_logits.reset(token)


def product(layer: Any, x: Tensor, bias: Tensor | None) -> Tensor:
    """x W + bias by the layer's own part of W."""
    is_transposed, is_fast = isinstance(layer, Conv1D), share_of(layer).fast
    if is_fast:
        multiply = weight_gradients.transposed_linear if is_transposed else weight_gradients.linear
        return multiply(x, layer.weight, bias)
    return F.linear(x, layer.weight.t() if is_transposed else layer.weight, bias)


@cache
def columns(kind: Any) -> type[nn.Module]:
    """Some columns of the product."""

    def forward(self: Any, x: Tensor) -> Tensor:
        return product(self, spread(x, share_of(self).axis), self.bias)

    return subclass(kind, forward, columns)


@cache
def rows(kind: Any) -> type[nn.Module]:
    """The sum of the products of all parts of the input."""

    def forward(self: Any, x_own: Tensor) -> Tensor:
        out = summed(product(self, x_own, None), share_of(self).axis)
        return out if self.bias is None else out + self.bias

    return subclass(kind, forward, rows)


@cache
def head(kind: Any) -> type[nn.Module]:
    """As ``columns``; the parts are put together, except inside ``logits_in_parts``."""

    def forward(self: Any, x: Tensor) -> Tensor:
        share = share_of(self)
        part = product(self, spread(x, share.axis), self.bias)
        assert share.outputs is not None
        return part if _parts_of_logits.get() else whole(part, share.outputs)

    return subclass(kind, forward, head)


@cache
def vocabulary(kind: Any) -> type[nn.Module]:
    """An embedding of which each process has some rows. Only one process adds something other than 0 to the sum.

    So the sum has the same bits for every number of processes.
    """

    def forward(self: Any, ids: Tensor) -> Tensor:
        share = share_of(self)
        cut = share.outputs
        assert cut is not None
        is_own = (ids >= cut.start) & (ids < cut.start + cut.own_size)
        look_up = weight_gradients.embedding if share.fast else nn.Embedding.forward
        rows = look_up(self, torch.where(is_own, ids - cut.start, 0))
        return summed(rows.masked_fill(~is_own[..., None], 0.0), share.axis)

    return subclass(kind, forward, vocabulary)


@cache
def norm_of_heads(kind: Any) -> type[nn.Module]:
    """A norm over each head, of which a process has some heads: the gradient of its weights is a sum over all heads."""

    def forward(self: Any, x: Tensor) -> Tensor:
        view = copy.copy(self)  # shares everything; the module itself must not change, another thread may be using it
        shared = {n: None if p is None else spread(p, share_of(self).axis) for n, p in self._parameters.items()}
        vars(view)["_parameters"] = shared
        return kind.forward(view, x)

    return subclass(kind, forward, norm_of_heads)


# -- adapters -------------------------------------------------------------------------------------


def _linear(share: Share) -> Callable[[Tensor, Tensor], Tensor]:
    return weight_gradients.linear if share.fast else F.linear


@cache
def adapter_columns(kind: Any) -> type[nn.Module]:
    """The adapter of a layer with split outputs: A is whole, and of B each process has some rows."""

    def forward(self: Any, x: Tensor) -> Tensor:
        share = share_of(self)

        def linear(x: Tensor, weight: Tensor) -> Tensor:
            return _linear(share)(spread(x, share.axis) if weight is self.lora_B else x, weight)

        return kind.forward(self, x, linear)

    return subclass(kind, forward, adapter_columns)


@cache
def adapter_rows(kind: Any) -> type[nn.Module]:
    """The adapter of a layer with split inputs: of A each process has some columns, and B is whole."""

    def forward(self: Any, x_own: Tensor) -> Tensor:
        share = share_of(self)

        def linear(x: Tensor, weight: Tensor) -> Tensor:
            out = _linear(share)(x, weight)
            return summed(out, share.axis) if weight is self.lora_A else out

        return kind.forward(self, x_own, linear)

    return subclass(kind, forward, adapter_rows)


class PartDropout(nn.Dropout):
    """Dropout of an input of which each process has a part. The random numbers are those of the whole input."""

    def __init__(self, p: float, cut: Cut) -> None:
        super().__init__(p)
        self.cut = cut

    def forward(self, x_own: Tensor) -> Tensor:
        if not self.training or self.p == 0.0:
            return x_own
        kept = F.dropout(x_own.new_ones(*x_own.shape[:-1], self.cut.total), self.p, training=True)
        return x_own * self.cut.own(kept)
