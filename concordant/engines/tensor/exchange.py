"""How activations go between the processes of a tensor group, with the gradient that each exchange needs.

An activation is either *whole*, the same on every process, or a process has its *part*, some columns of it. The
gradient of a whole activation is whole as well. So each function here comes with its counterpart in the backward pass.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from concordant.core.axis import Axis
from concordant.engines.tensor.cuts import Cut


class _Spread(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, axis: Axis) -> Tensor:
        ctx.axis = axis
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.axis.sum(grad), None


class _Summed(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, axis: Axis) -> Tensor:
        return axis.sum(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


class _Whole(Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, cut: Cut, dim: int) -> Tensor:
        ctx.cut, ctx.dim = cut, dim
        return cut.whole(own, dim)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return ctx.cut.own(grad, ctx.dim), None, None


class _Own(Function):
    @staticmethod
    def forward(ctx: Any, whole: Tensor, cut: Cut, dim: int) -> Tensor:
        ctx.cut, ctx.dim = cut, dim
        return cut.own(whole, dim)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return ctx.cut.whole(grad, ctx.dim), None, None


def spread(x: Tensor, axis: Axis) -> Tensor:
    """A whole ``x`` that each process uses for its own columns, so that their gradients are summed."""
    return _Spread.apply(x, axis)


def summed(x: Tensor, axis: Axis) -> Tensor:
    """The sum of what each process computed from its part."""
    return _Summed.apply(x, axis)


def whole(own: Tensor, cut: Cut, dim: int = -1) -> Tensor:
    """The whole activation from the parts."""
    return _Whole.apply(own, cut, dim)


def own(x: Tensor, cut: Cut, dim: int = -1) -> Tensor:
    """This process's part of a whole activation."""
    return _Own.apply(x, cut, dim)
