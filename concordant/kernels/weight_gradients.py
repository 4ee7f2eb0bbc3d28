"""Weights' gradients added where they are kept.

Autograd makes the gradient that a pass gives a weight as a tensor of its own, and then adds the tensor to ``.grad``. A
batch is many passes. Here a product adds to ``.grad`` directly, and an embedding adds to the rows of the tokens that
were read, so no second gradient is made, written, read and freed. The sums are the same but for the order of rounding.
The products are those of ``products.py``, in the backward pass and wherever no gradient is wanted.

This happens only within ``gradients_in_place``; outside, a module with one of these forward passes behaves as its plain
class does. Within, hooks on weights are given no gradient and ``torch.autograd.grad`` finds none.

T any leading shape, N all of it in one, I and O sizes of input and output, V vocabulary, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (the field's name for it)
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.pytorch_utils import Conv1D

from concordant.kernels.products import add_multiplied, in_known_shape, multiply
from concordant.kernels.replaced import subclass
from concordant.models.lora_layer import Adapter

CASTS_FROM = 256  # rows; fewer, as in sampling, take the copy of the weight that autocast keeps

_is_active: ContextVar[bool] = ContextVar("gradients_in_place", default=False)


@contextmanager
def gradients_in_place() -> Iterator[None]:
    """Around a forward pass and its ``backward()``."""
    token = _is_active.set(True)
    try:
        yield
    finally:
        _is_active.reset(token)


def _applies(weight: Tensor) -> bool:
    return _is_active.get() and torch.is_grad_enabled() and weight.is_leaf and _is_plain(weight)


def _is_plain(weight: Tensor) -> bool:
    """Where it was measured: weights kept in fp32, on a CPU."""
    return (
        type(weight) in (Tensor, nn.Parameter)
        and weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and _factors() in (torch.float32, torch.bfloat16)
    )


def _factors() -> torch.dtype:
    """What products are made of: autocast's type or fp32."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32


def _add_product(weight: Tensor, a_N: Tensor, b_N: Tensor) -> None:
    """``weight``: the leaf itself; where activations are computed again, the saved one is an alias of the leaf."""
    weight.grad = add_multiplied(weight.grad, a_N, b_N)


class _Product(torch.autograd.Function):
    """y = x W + b. Under autocast x and W stay in fp32 for the backward pass, which casts them again: three layers that
    read one x keep it once, and no second copy of W is kept."""

    @staticmethod
    def forward(ctx: Any, x_TI: Tensor, weight: Tensor, bias_O: Tensor | None, kept_IO: bool) -> Tensor:
        """``weight`` is (I, O) if ``kept_IO``, else (O, I)."""
        ctx.save_for_backward(x_TI, weight)
        ctx.leaf, ctx.kept_IO, ctx.dtype = weight, kept_IO, _factors()
        return _product(ctx.dtype, x_TI, weight if kept_IO else weight.t(), bias_O)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TO: Tensor) -> tuple[Tensor | None, None, Tensor | None, None]:
        x_TI, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, _ = ctx.needs_input_grad
        grad_NO = grad_TO.flatten(0, -2)
        if needs_weight:
            x_NI = x_TI.flatten(0, -2).to(ctx.dtype)
            _add_product(ctx.leaf, *((x_NI, grad_NO) if ctx.kept_IO else (grad_NO, x_NI)))
        x_grad_TI = None
        if needs_x:
            x_grad_TI = _product(ctx.dtype, grad_TO, weight.t() if ctx.kept_IO else weight).to(x_TI.dtype)
        return x_grad_TI, None, grad_NO.sum(0, dtype=torch.float32) if needs_bias else None, None


def _product(dtype: torch.dtype, x_TI: Tensor, weight_IO: Tensor, bias_O: Tensor | None = None) -> Tensor:
    bias_O = None if bias_O is None else bias_O.to(dtype)
    out_NO = multiply(x_TI.flatten(0, -2).to(dtype), weight_IO.to(dtype), bias_O)
    return out_NO.view(*x_TI.shape[:-1], weight_IO.shape[1])


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ids_T: Tensor, weight_VH: Tensor, padding: int | None) -> Tensor:
        ctx.save_for_backward(ids_T)
        ctx.leaf, ctx.padding = weight_VH, padding
        return F.embedding(ids_T, weight_VH)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TH: Tensor) -> tuple[None, None, None]:
        """The row of ``padding`` gets none."""
        (ids_T,) = ctx.saved_tensors
        ids_N, grad_NH = ids_T.flatten(), grad_TH.flatten(0, -2)
        if ctx.padding is not None:
            grad_NH = grad_NH.masked_fill((ids_N == ctx.padding)[:, None], 0.0)
        if ctx.leaf.grad is None:
            ctx.leaf.grad = torch.zeros_like(ctx.leaf)
        ctx.leaf.grad.index_add_(0, ids_N, grad_NH)
        return None, None, None


def linear(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """``F.linear``, by this module's products where they apply."""
    return _any_product(x, weight_OI, bias_O, False, lambda x: F.linear(x, weight_OI, bias_O))


def _linear(self: Any, x: Tensor) -> Tensor:
    return linear(x, self.weight, self.bias)


def _conv1d(self: Any, x: Tensor) -> Tensor:
    return _any_product(x, self.weight, self.bias, True, lambda x: Conv1D.forward(self, x))


def _any_product(
    x: Tensor, weight: Tensor, bias_O: Tensor | None, kept_IO: bool, theirs: Callable[[Tensor], Tensor]
) -> Tensor:
    """``theirs`` where autograd is to see the layer's own operations, or they are not ours to do."""
    if x.ndim < 2 or x.dtype not in (torch.float32, _factors()):
        return theirs(x)
    if torch.is_grad_enabled():
        return _Product.apply(x, weight, bias_O, kept_IO) if _applies(weight) else theirs(x)
    if not _is_plain(weight):
        return theirs(x)
    if _factors() != torch.float32 and x.numel() < CASTS_FROM * x.shape[-1]:
        return in_known_shape(x, theirs)
    return _product(_factors(), x, weight if kept_IO else weight.t(), bias_O)


def _embedding(self: Any, ids: Tensor) -> Tensor:
    is_plain = self.max_norm is None and not self.scale_grad_by_freq and not self.sparse
    if is_plain and self.weight.requires_grad and _applies(self.weight):
        return _Embedding.apply(ids, self.weight, self.padding_idx)
    return nn.Embedding.forward(self, ids)


def _adapter(self: Any, x: Tensor) -> Tensor:
    return Adapter.forward(self, x, linear)


FORWARDS: dict[type[nn.Module], Callable[..., Tensor]] = {
    nn.Linear: _linear,
    Conv1D: _conv1d,
    nn.Embedding: _embedding,
    Adapter: _adapter,
}


def put_on(model: nn.Module) -> bool:
    for module in model.modules():
        kind: Any = type(module)
        if kind in FORWARDS:
            module.__class__ = fast(kind)
    return True


@cache
def fast(kind: Any) -> type[nn.Module]:
    return subclass(kind, FORWARDS[kind], fast)
