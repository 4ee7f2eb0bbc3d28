"""Adds the gradients of weights directly to ``.grad``.

In each pass autograd makes a new tensor for the gradient of a weight and then adds this tensor to ``.grad``. A batch
needs many passes. Here a product adds to ``.grad`` directly, and an embedding adds only to the rows of the tokens that
it read. So no second tensor is made, and the sums differ only by rounding. ``products.py`` computes the products in the
backward pass and in every pass without gradient.

Gradients are added in this way only inside ``gradients_in_place``. Outside this block autograd works as usual. Inside,
hooks on weights get no gradient, and ``torch.autograd.grad`` finds none for weights.

T stands for tokens in leading dimensions of any shape, R for the rows after these dimensions are flattened.
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

CASTS_FROM = 256  # rows; with fewer rows, as in sampling, the copy of the weight that autocast keeps is used

_is_active: ContextVar[bool] = ContextVar("gradients_in_place", default=False)


@contextmanager
def gradients_in_place() -> Iterator[None]:
    """Use this block around a forward pass and its ``backward()``."""
    token = _is_active.set(True)
    try:
        yield
    finally:
        _is_active.reset(token)


def _applies(weight: Tensor) -> bool:
    return _is_active.get() and torch.is_grad_enabled() and weight.is_leaf and _is_plain(weight)


def _is_plain(weight: Tensor) -> bool:
    """Whether the kernel was measured for such a weight: fp32 on a CPU."""
    return (
        type(weight) in (Tensor, nn.Parameter)
        and weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and factors() in (torch.float32, torch.bfloat16)
    )


def factors(device: str = "cpu") -> torch.dtype:
    """The dtype of the factors of a product: autocast's dtype, or fp32."""
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32


def adds_in_place() -> bool:
    """Whether the call is inside ``gradients_in_place``."""
    return _is_active.get()


def add_product(weight: Tensor, a_R: Tensor, b_R: Tensor, elements: int = 0) -> None:
    """Add aᵀ b to the gradient of ``weight``, a part of a weight of ``elements`` if they are given.

    ``weight`` must be the leaf. With activation checkpointing the saved tensor is only an alias of the leaf.
    """
    weight.grad = add_multiplied(weight.grad, a_R, b_R, elements)


class _Product(torch.autograd.Function):
    """y = x W + b.

    Under autocast x and W are kept in fp32, and the backward pass casts them again. So three layers that read the same
    x keep one tensor, and no second copy of W is kept.
    """

    @staticmethod
    def forward(ctx: Any, x_TI: Tensor, weight: Tensor, bias_O: Tensor | None, kept_IO: bool) -> Tensor:
        """``weight`` is (I, O) if ``kept_IO``, else (O, I)."""
        ctx.save_for_backward(x_TI, weight)
        ctx.leaf, ctx.kept_IO, ctx.dtype = weight, kept_IO, factors()
        return product(ctx.dtype, x_TI, weight if kept_IO else weight.t(), bias_O)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TO: Tensor) -> tuple[Tensor | None, None, Tensor | None, None]:
        x_TI, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, _ = ctx.needs_input_grad
        grad_RO = grad_TO.flatten(0, -2)
        if needs_weight:
            x_RI = x_TI.flatten(0, -2).to(ctx.dtype)
            add_product(ctx.leaf, *((x_RI, grad_RO) if ctx.kept_IO else (grad_RO, x_RI)))
        x_grad_TI = None
        if needs_x:
            x_grad_TI = product(ctx.dtype, grad_TO, weight.t() if ctx.kept_IO else weight).to(x_TI.dtype)
        return x_grad_TI, None, grad_RO.sum(0, dtype=torch.float32) if needs_bias else None, None


def product(
    dtype: torch.dtype, x_TI: Tensor, weight_IO: Tensor, bias_O: Tensor | None = None, columns: int = 0
) -> Tensor:
    """x W + b with factors of ``dtype``. ``columns``: of the whole W, where this is a part of it."""
    bias_O = None if bias_O is None else bias_O.to(dtype)
    out_RO = multiply(x_TI.flatten(0, -2).to(dtype), weight_IO.to(dtype), bias_O, columns)
    return out_RO.view(*x_TI.shape[:-1], weight_IO.shape[1])


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ids_T: Tensor, weight_VH: Tensor, padding: int | None) -> Tensor:
        ctx.save_for_backward(ids_T)
        ctx.leaf, ctx.padding = weight_VH, padding
        return F.embedding(ids_T, weight_VH)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TH: Tensor) -> tuple[None, None, None]:
        """Adds to the gradient of each row that was read, except to the row of ``padding``."""
        (ids_T,) = ctx.saved_tensors
        ids_R, grad_RH = ids_T.flatten(), grad_TH.flatten(0, -2)
        if ctx.padding is not None:
            grad_RH = grad_RH.masked_fill((ids_R == ctx.padding)[:, None], 0.0)
        if ctx.leaf.grad is None:
            ctx.leaf.grad = torch.zeros_like(ctx.leaf)
        ctx.leaf.grad.index_add_(0, ids_R, grad_RH)
        return None, None, None


def linear(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """``F.linear``, by this module's products where they apply."""
    return _any_product(x, weight_OI, bias_O, False, lambda x: F.linear(x, weight_OI, bias_O))


def _linear(self: Any, x: Tensor) -> Tensor:
    return linear(x, self.weight, self.bias)


def transposed_linear(x: Tensor, weight_IO: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """x W + b, by this module's products where they apply."""
    return _any_product(x, weight_IO, bias_O, True, lambda x: F.linear(x, weight_IO.t(), bias_O))


def _conv1d(self: Any, x: Tensor) -> Tensor:
    return _any_product(x, self.weight, self.bias, True, lambda x: Conv1D.forward(self, x))


def _any_product(
    x: Tensor, weight: Tensor, bias_O: Tensor | None, kept_IO: bool, theirs: Callable[[Tensor], Tensor]
) -> Tensor:
    """The product by this module, or by ``theirs`` where the kernel does not apply."""
    if x.ndim < 2 or x.dtype not in (torch.float32, factors()):
        return theirs(x)
    if torch.is_grad_enabled():
        return _Product.apply(x, weight, bias_O, kept_IO) if _applies(weight) else theirs(x)
    if not _is_plain(weight):
        return theirs(x)
    if factors() != torch.float32 and x.numel() < CASTS_FROM * x.shape[-1]:
        return in_known_shape(x, theirs)
    return product(factors(), x, weight if kept_IO else weight.t(), bias_O)


def embedding(self: Any, ids: Tensor) -> Tensor:
    """The forward pass of ``self``, an ``nn.Embedding``, by this module's gradient where it applies."""
    is_plain = self.max_norm is None and not self.scale_grad_by_freq and not self.sparse
    if is_plain and self.weight.requires_grad and _applies(self.weight):
        return _Embedding.apply(ids, self.weight, self.padding_idx)
    return nn.Embedding.forward(self, ids)


def _adapter(self: Any, x: Tensor) -> Tensor:
    return Adapter.forward(self, x, linear)


FORWARDS: dict[type[nn.Module], Callable[..., Tensor]] = {
    nn.Linear: _linear,
    Conv1D: _conv1d,
    nn.Embedding: embedding,
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
