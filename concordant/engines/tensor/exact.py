"""The exact plan: every product is split over its output columns, so that its bits are those of one process.

A product that is split over columns or rows of its result has the same bits as the whole product. A product whose inner
dimension is split has not, because floating-point addition is not associative. So no sum over an inner dimension is
split here:

    forward    y[:, r] = x W[:, r]           x whole; the columns of y are gathered where the next layer needs all
    backward   dW[:, r] = xᵀ dy[:, r]        own columns alone
               dx[:, s] = dy W[s, :]ᵀ        a sum over all columns of y: dy and W are gathered first, and each process
                                             computes some columns s of dx

This sends whole activations and whole weights where the usual plan (``layers.py``) sends only sums. Adapters and norms
are small, so that every process computes them whole.

A library of products has special code for the last columns of a matrix where they fill no register, and this code sums
in another order. So a product is split only into parts of ``UNIT`` columns, if its columns are a multiple of ``UNIT``
too; docs/scale.md says how that was measured. Other layers stay whole: every process computes them, and takes its part
of the result. The optimizer and activation functions have such last numbers too.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from transformers.pytorch_utils import Conv1D

from concordant.core.axis import Axis
from concordant.engines.tensor.cuts import CUTS, Cut, Piece, even
from concordant.engines.tensor.exchange import own, whole
from concordant.engines.tensor.layers import Share, share_of
from concordant.kernels.products import add_multiplied
from concordant.kernels.replaced import subclass
from concordant.kernels.weight_gradients import add_product, adds_in_place, factors, product

UNIT = 16  # columns: a register of AVX-512 has so many numbers in fp32
ACTIVATED = 32  # numbers that an activation function computes at once: two registers


def fits(cut: Cut, unit: int = UNIT) -> bool:
    """Whether the parts of a product that is split by ``cut`` have the bits of the whole."""
    return all(size % unit == 0 for size in (cut.total, *cut.sizes))


def even_units(axis: Axis, size: int) -> Cut:
    """A cut that ``fits`` where there is one."""
    unit = next((u for u in (ACTIVATED, UNIT) if size % u == 0 and size >= u * axis.size), 1)
    return even(axis, size, unit)


class _Product(Function):
    """x W + b for some columns of W, or for all columns gathered.

    ``gathers``: the result is whole. Where ``share.inputs`` is given, x is a part too.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        share: Share,
        piece: Piece,
        kept_IO: bool,
        gathers: bool,
    ) -> Tensor:
        """``weight`` is this process's part, (I, o) if ``kept_IO``, else (o, I)."""
        cut = piece.cut
        x_TI = x if share.inputs is None else share.inputs.whole(x)
        ctx.save_for_backward(x_TI, weight)
        ctx.leaf, ctx.dtype, ctx.in_place = weight, factors(x.device.type), adds_in_place()
        ctx.share, ctx.piece, ctx.kept_IO, ctx.gathers = share, piece, kept_IO, gathers
        y_To = product(ctx.dtype, x_TI, weight if kept_IO else weight.t(), bias, cut.total)
        return cut.whole(y_To) if gathers else y_To

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None, None, None]:
        x_TI, weight = ctx.saved_tensors
        cut: Cut = ctx.piece.cut
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        grad_TO = grad if ctx.gathers else cut.whole(grad)
        weight_grad = x_grad = bias_grad = None
        if needs_weight:
            weight_grad = _weight_gradient(ctx, x_TI, cut.own(grad_TO))
        if needs_x:
            x_grad = _input_gradient(ctx, weight, grad_TO, x_TI.shape[-1]).to(x_TI.dtype)
        if needs_bias:  # summed over whole rows, as in one process
            bias_grad = cut.own(grad_TO.flatten(0, -2).sum(0, dtype=torch.float32))
        return x_grad, weight_grad, bias_grad, None, None, None, None


def _weight_gradient(ctx: Any, x_TI: Tensor, grad_To: Tensor) -> Tensor | None:
    """The gradient of the own columns; None where it has been added to the weight in place."""
    x_RI, grad_Ro = x_TI.flatten(0, -2).to(ctx.dtype), grad_To.flatten(0, -2)
    pair, elements = (x_RI, grad_Ro) if ctx.kept_IO else (grad_Ro, x_RI), ctx.piece.elements(ctx.leaf)
    if not ctx.in_place:
        return add_multiplied(None, *pair, elements)
    add_product(ctx.leaf, *pair, elements)
    return None


def _input_gradient(ctx: Any, weight: Tensor, grad_TO: Tensor, inputs: int) -> Tensor:
    """dx: this process's part where x was a part, and otherwise the whole."""
    share: Share = ctx.share
    cut = share.inputs or even_units(share.axis, inputs)
    whole_weight = ctx.piece.whole(weight)
    if not fits(cut):
        grad_TI = product(ctx.dtype, grad_TO, whole_weight.t() if ctx.kept_IO else whole_weight)
        return grad_TI if share.inputs is None else cut.own(grad_TI)
    weight_Oi = cut.own(whole_weight, 0).t() if ctx.kept_IO else cut.own(whole_weight, 1)
    grad_Ti = product(ctx.dtype, grad_TO, weight_Oi, columns=inputs)
    return grad_Ti if share.inputs is not None else cut.whole(grad_Ti)


def _split_product(layer: Any, x: Tensor, gathers: bool) -> Tensor:
    piece = vars(layer)[CUTS]["weight"]
    return _Product.apply(x, layer.weight, layer.bias, share_of(layer), piece, isinstance(layer, Conv1D), gathers)


@cache
def columns(kind: Any) -> type[nn.Module]:
    """Some columns of the product."""

    def forward(self: Any, x: Tensor) -> Tensor:
        return _split_product(self, x, gathers=False)

    return subclass(kind, forward, columns)


@cache
def gathered_columns(kind: Any) -> type[nn.Module]:
    """All columns of the product, of which each process has computed some."""

    def forward(self: Any, x: Tensor) -> Tensor:
        return _split_product(self, x, gathers=True)

    return subclass(kind, forward, gathered_columns)


@cache
def own_columns(kind: Any) -> type[nn.Module]:
    """This process's part of the result of a whole layer."""

    def forward(self: Any, x: Tensor) -> Tensor:
        cut = share_of(self).outputs
        assert cut is not None
        return own(kind.forward(self, x), cut)

    return subclass(kind, forward, own_columns)


@cache
def gathered_input(kind: Any) -> type[nn.Module]:
    """A whole layer whose input comes in parts."""

    def forward(self: Any, x_own: Tensor) -> Tensor:
        cut = share_of(self).inputs
        assert cut is not None
        return kind.forward(self, whole(x_own, cut))

    return subclass(kind, forward, gathered_input)


@cache
def norm_of_heads(kind: Any) -> type[nn.Module]:
    """A norm over each head. Every process computes all heads, because the weights' gradient is a sum over them."""

    def forward(self: Any, x: Tensor) -> Tensor:
        cut = share_of(self).inputs
        assert cut is not None
        return own(kind.forward(self, whole(x, cut, -2)), cut, -2)

    return subclass(kind, forward, norm_of_heads)


@cache
def adapted(kind: Any) -> type[nn.Module]:
    """A layer with adapters: the base is split, and every process computes the adapters whole."""

    def forward(self: Any, x: Tensor) -> Tensor:
        share = share_of(self)
        x = x if share.inputs is None else whole(x, share.inputs)
        out = self.base(x)
        if self.active is None:
            return out
        more = self.adapter(self.active)(x)
        return out + (more if share.outputs is None else own(more, share.outputs)).to(out.dtype)

    return subclass(kind, forward, adapted)
