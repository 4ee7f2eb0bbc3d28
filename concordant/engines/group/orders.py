"""Orders: what the driver tells every rank to do. A rank does its orders one after another.

An order names objects by number. Objects are models, learners, scorers and generators. Every rank makes them by the
same orders, so that a number means the same object on every rank.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch

from concordant.engines.group.collectives import TorchRanks
from concordant.engines.group.sent_weights import SentWeights
from concordant.engines.protocol import Adapters, Weights
from concordant.engines.ranks import among


@dataclass(frozen=True, slots=True)
class Ref:
    """An object that every rank holds."""

    number: int


@dataclass(frozen=True, slots=True)
class Published:
    """The present weights of a learner. Every rank takes them from its own learner, so no tensor is sent."""

    learner: Ref
    adapters: Adapters


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Call ``verb`` of the object ``of``, or the function ``verb`` ("module:name") if ``of`` is None."""

    verb: str
    of: Ref | None = None
    arguments: Sequence[Any] = ()
    named: Mapping[str, Any] = field(default_factory=dict)
    number: int = 0  # of the driver's orders
    result: int | None = None  # the number that the result gets, if it is an object for later orders
    enters: bool = False  # the result is a context manager, which is entered; the order "leave" leaves it


class Worker:
    """The objects of one rank, and what it does on an order."""

    def __init__(self, ranks: TorchRanks) -> None:
        self.ranks = ranks
        self.objects: dict[int, Any] = {}
        self._entered = ExitStack()

    def do(self, order: Order) -> Any:
        """Carry out ``order``. A verb that returns a future is waited for."""
        arguments = [self._found(a) for a in order.arguments]
        named = {name: self._found(a) for name, a in order.named.items()}
        with among(self.ranks):
            made = self._callable(order)(*arguments, **named)
        if hasattr(made, "result"):
            made = made.result()
        if order.result is not None:
            self.objects[order.result] = made
        return self._entered.enter_context(made) if order.enters else made

    def look(self, of: Ref, verb: str, *arguments: Any) -> Any:
        """An attribute of an object of this rank, or the result of a method that needs no other rank."""
        found = getattr(self.objects[of.number], verb)
        return found(*arguments) if callable(found) else found

    # -- orders to the rank itself ----------------------------------------------------------------

    def leave(self) -> None:
        """Leave the context managers that were entered, in reverse order."""
        self._entered.close()

    def forget(self) -> None:
        """Drop all objects, before another stage."""
        self.leave()
        self.objects.clear()

    def use_mesh(self, shards: int, tensor: int, sharded: bool, pipeline: int, offload: bool) -> None:
        self.ranks.use_mesh(shards, tensor, sharded, pipeline, offload)

    def packed(self, published: Weights) -> SentWeights:
        """Published weights, ready to be sent to another team. Every rank takes part, because each may hold a part."""
        return SentWeights.of(published)

    def use_arithmetic(self, threads: int, flush_denormal: bool) -> None:
        """Set PyTorch's CPU threads, and whether denormal numbers are rounded to 0. Both belong to the process."""
        torch.set_num_threads(threads)
        torch.set_flush_denormal(flush_denormal)

    def _callable(self, order: Order) -> Callable[..., Any]:
        if order.of is not None:
            return getattr(self.objects[order.of.number], order.verb)
        if ":" not in order.verb:
            return getattr(self, order.verb)
        module, _, name = order.verb.partition(":")
        return inspect.unwrap(getattr(importlib.import_module(module), name))  # without ``everywhere``

    def _found(self, argument: Any) -> Any:
        if isinstance(argument, Ref):
            return self.objects[argument.number]
        if isinstance(argument, Published):
            return self.objects[argument.learner.number].publish(argument.adapters)
        return argument
