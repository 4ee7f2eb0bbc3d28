"""Weights' gradients added where they are kept.

Autograd makes each pass's gradient of a weight apart, then adds it to what earlier passes left; a batch is many passes.
Here a product adds to ``.grad`` as it goes and an embedding touches the rows of the tokens that were read, so no second
gradient is made, written, read and freed. The sums are the same but for the order of rounding.

Only within ``gradients_in_place``: a module that has one of these forward passes is else what it was. There hooks on
weights are given no gradient, and ``torch.autograd.grad`` finds none.

T any leading shape, N all of it in one, I and O sizes of input and output, V vocabulary, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (the field's name for it)
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.pytorch_utils import Conv1D

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
    """Where it was measured. Autocast would give the product and the weight different types."""
    return (
        _is_active.get()
        and torch.is_grad_enabled()
        and weight.requires_grad
        and weight.is_leaf
        and weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
    )


def _add_product(weight: Tensor, a: Tensor, b: Tensor) -> None:
    """``weight``: the leaf itself; where activations are computed again, the one saved is an alias of it."""
    if weight.grad is None:
        weight.grad = a @ b
    else:
        weight.grad.addmm_(a, b)


class _Linear(torch.autograd.Function):
    """y = x Wᵀ + b."""

    @staticmethod
    def forward(ctx: Any, x_TI: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
        ctx.save_for_backward(x_TI, weight_OI)
        ctx.leaf = weight_OI
        return F.linear(x_TI, weight_OI, bias_O)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TO: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
        x_TI, weight_OI = ctx.saved_tensors
        needs_x, _, needs_bias = ctx.needs_input_grad
        grad_NO = grad_TO.flatten(0, -2)
        _add_product(ctx.leaf, grad_NO.t(), x_TI.flatten(0, -2))
        return grad_TO @ weight_OI if needs_x else None, None, grad_NO.sum(0) if needs_bias else None


class _Conv1D(torch.autograd.Function):
    """y = x W + b, GPT-2's linear layer."""

    @staticmethod
    def forward(ctx: Any, x_TI: Tensor, weight_IO: Tensor, bias_O: Tensor) -> Tensor:
        ctx.save_for_backward(x_TI, weight_IO)
        ctx.leaf = weight_IO
        return torch.addmm(bias_O, x_TI.flatten(0, -2), weight_IO).view(*x_TI.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TO: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
        x_TI, weight_IO = ctx.saved_tensors
        needs_x, _, needs_bias = ctx.needs_input_grad
        grad_NO = grad_TO.flatten(0, -2)
        _add_product(ctx.leaf, x_TI.flatten(0, -2).t(), grad_NO)
        return grad_TO @ weight_IO.t() if needs_x else None, None, grad_NO.sum(0) if needs_bias else None


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


def _linear(self: Any, x: Tensor) -> Tensor:
    if _applies(self.weight) and x.ndim > 1:
        return _Linear.apply(x, self.weight, self.bias)
    return nn.Linear.forward(self, x)


def _conv1d(self: Any, x: Tensor) -> Tensor:
    if _applies(self.weight) and x.ndim > 1:
        return _Conv1D.apply(x, self.weight, self.bias)
    return Conv1D.forward(self, x)


def _embedding(self: Any, ids: Tensor) -> Tensor:
    is_plain = self.max_norm is None and not self.scale_grad_by_freq and not self.sparse
    if is_plain and _applies(self.weight):
        return _Embedding.apply(ids, self.weight, self.padding_idx)
    return nn.Embedding.forward(self, ids)


FORWARDS: dict[type[nn.Module], Callable[..., Tensor]] = {nn.Linear: _linear, Conv1D: _conv1d, nn.Embedding: _embedding}
