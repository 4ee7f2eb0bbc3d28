"""What stands in the place of layers that another stage computes: modules that receive, send or pass a hidden state.

The model's own code still calls all layers in their order. The layer before a stage's first one receives the hidden
state from the previous stage, the layer after its last one sends the hidden state to the next stage, and all others
return what they get. In the backward pass, which runs in the opposite order, the same two send and receive the gradient
of the hidden state. So a stage's own layers are not touched.

The functions here are makers of subclasses (kernels/replaced.py): a layer keeps its name and its weights' names.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from concordant.core.axis import Chain
from concordant.engines.pipeline.held import Held
from concordant.engines.tensor.cuts import pieces_of
from concordant.kernels.replaced import subclass

STAGE = "concordant_stage"  # attribute of a backbone that is split into stages, and of its layers that stand for others


class Stage:
    """This process's stage of one model. All layers that stand for others share it."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self.is_whole = False  # inside ``whole``: this process computes all layers

    @contextmanager
    def whole(self, model: nn.Module) -> Iterator[None]:
        """Inside the block this process has the weights of all stages and computes all layers, without gradient.

        All stages of the chain enter the block together.
        """
        if self.is_whole:
            yield
            return
        held = pieces_of(model)
        weights = {id(p): p for p in model.parameters()}
        before = {number: weights[number].data for number, part in held.items() if isinstance(part, Held)}
        try:
            for number in before:
                part = held[number]
                assert isinstance(part, Held)
                weights[number].data = part.everywhere(weights[number].detach())
            self.is_whole = True
            with torch.no_grad():
                yield
        finally:
            self.is_whole = False
            for number, own in before.items():
                weights[number].data = own


def stage_of(layer: Any) -> Stage | None:
    return vars(layer).get(STAGE)


class _Receive(Function):
    """The previous stage's hidden state. ``anchor`` asks for a gradient, so that the backward pass comes here."""

    @staticmethod
    def forward(ctx: Any, like: Tensor, anchor: Tensor, chain: Chain) -> Tensor:
        ctx.chain = chain
        return chain.take(like, backwards=False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, None]:
        ctx.chain.pass_on(grad, backwards=True)
        return None, None, None


class _Send(Function):
    """Gives the hidden state to the next stage. The gradient comes from there, and the one that is given is ignored."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, anchor: Tensor, chain: Chain) -> Tensor:
        ctx.chain = chain
        chain.pass_on(hidden, backwards=False)
        return hidden.view_as(hidden)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return ctx.chain.take(grad, backwards=True), None, None


def _stage(layer: Any) -> Stage:
    return vars(layer)[STAGE]


def _anchor(hidden: Tensor) -> Tensor:
    return hidden.new_empty(0, requires_grad=True)


@cache
def passes(kind: Any) -> type[nn.Module]:
    def forward(self: Any, hidden: Tensor, *more: Any, **named: Any) -> Any:
        return kind.forward(self, hidden, *more, **named) if _stage(self).is_whole else hidden

    return subclass(kind, forward, passes)


@cache
def receives(kind: Any) -> type[nn.Module]:
    def forward(self: Any, hidden: Tensor, *more: Any, **named: Any) -> Any:
        stage = _stage(self)
        if stage.is_whole:
            return kind.forward(self, hidden, *more, **named)
        return _Receive.apply(hidden.detach(), _anchor(hidden), stage.chain)

    return subclass(kind, forward, receives)


@cache
def sends(kind: Any) -> type[nn.Module]:
    def forward(self: Any, hidden: Tensor, *more: Any, **named: Any) -> Any:
        stage = _stage(self)
        if stage.is_whole:
            return kind.forward(self, hidden, *more, **named)
        return _Send.apply(hidden, _anchor(hidden), stage.chain)

    return subclass(kind, forward, sends)


@cache
def blank_embedding(kind: Any) -> type[nn.Module]:
    """Zeros of the right shape and kind, where another stage looks up the embeddings."""

    def forward(self: Any, ids: Tensor, *more: Any, **named: Any) -> Any:
        if _stage(self).is_whole:
            return kind.forward(self, ids, *more, **named)
        return self.weight.new_zeros(1).expand(*ids.shape, self.weight.shape[1])

    return subclass(kind, forward, blank_embedding)
