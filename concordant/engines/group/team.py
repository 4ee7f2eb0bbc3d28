"""A team: the driver's view of the ranks. It numbers objects and sends orders; how they travel is each team's own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from concordant.engines.group.orders import Order, Published, Ref
from concordant.engines.protocol import Future


class Team(ABC):
    """``workers`` processes that do the same orders. Stages come one after another; each begins with ``begin``."""

    workers: int

    def __init__(self) -> None:
        self._made = 0  # objects that were made so far
        self._twins: dict[int, tuple[Any, Ref]] = {}  # by id: objects of the driver that every rank holds too
        self.learns = False  # whether the ranks hold the state of an optimizer

    # -- how orders travel ------------------------------------------------------------------------

    @abstractmethod
    def order(self, order: Order) -> Future[Any]:
        """Every rank carries out ``order``; the result is rank 0's.

        RunFailed if a rank raises, ends or does not answer in time; the message names the rank and the cause.
        """

    @abstractmethod
    def look(self, of: Ref, verb: str, *arguments: Any) -> Any:
        """An attribute of rank 0's object, or the result of a method that needs no other rank."""

    @abstractmethod
    def close(self) -> None:
        """End the ranks other than the driver."""

    # -- orders -----------------------------------------------------------------------------------

    def begin(
        self,
        shards: int,
        threads: int,
        tensor: int = 1,
        sharded: bool = False,
        pipeline: int = 1,
        offload: bool = False,
    ) -> None:
        """Begin a stage: no objects, ``shards`` parts of a batch, and ``threads`` CPU threads for every rank.

        ``tensor`` ranks hold a part each of the layers of every model, and ``pipeline`` ranks some layers each.
        ``sharded``: the weights of learners are split. ``offload``: the parts wait in the processor's memory.
        """
        self._forget()
        self.order(Order(verb="forget")).result()
        self.order(Order(verb="use_mesh", arguments=[shards, tensor, sharded, pipeline, offload])).result()
        self.use_arithmetic(threads, flush_denormal=False)

    def _forget(self) -> None:
        """Drop what the driver knows of the objects of the stage before."""
        self._twins.clear()
        self.learns = False

    def use_arithmetic(self, threads: int, flush_denormal: bool) -> None:
        self.order(Order(verb="use_arithmetic", arguments=[threads, flush_denormal])).result()

    def make(self, function: str, *arguments: Any, **named: Any) -> Ref:
        """Every rank calls the function "module:name" and keeps the result, an engine, under the returned number."""
        ref = self._next()
        self.order(self._order(function, arguments, named, result=ref.number)).result()
        return ref

    @abstractmethod
    def make_twin(self, function: str, *arguments: Any, **named: Any) -> Any:
        """As ``make``, but the driver gets an object of its own, such as a model whose tokenizer it needs.

        Later orders may have this object as an argument: every rank then takes its own.
        """

    def keep(self, of: Ref, verb: str) -> Ref:
        """Call ``verb`` of the object on every rank and keep the result as another object."""
        ref = self._next()
        self.order(Order(verb=verb, of=of, result=ref.number)).result()
        return ref

    def call(self, of: Ref, verb: str, *arguments: Any, **named: Any) -> Future[Any]:
        return self.order(self._order(verb, arguments, named, of=of))

    def hand_over(self, published: Published) -> Any:
        """Published weights in a form that another team's engine can load. It has ``version`` and ``bytes``."""
        return self.order(Order(verb="packed", arguments=[published])).result()

    def enter(self, of: Ref, verb: str) -> None:
        """Enter the context manager that ``verb`` returns, on every rank."""
        self.order(Order(verb=verb, of=of, enters=True)).result()

    def leave(self) -> None:
        self.order(Order(verb="leave")).result()

    def _twin(self, own: Any, ref: Ref) -> Any:
        """Remember that the driver's object ``own`` is the object ``ref`` of every rank."""
        self._twins[id(own)] = (own, ref)
        return own

    def _next(self) -> Ref:
        self._made += 1
        return Ref(self._made)

    def _order(self, verb: str, arguments: Sequence[Any], named: Mapping[str, Any], **more: Any) -> Order:
        """An order in which handles and objects that every rank holds are named by their numbers."""
        sent = [self._sent(a) for a in arguments]
        return Order(verb=verb, arguments=sent, named={name: self._sent(a) for name, a in named.items()}, **more)

    def _sent(self, argument: Any) -> Any:
        if id(argument) in self._twins:
            return self._twins[id(argument)][1]
        if isinstance(argument, Path):
            return argument.absolute()  # the other ranks may have another working directory
        return getattr(argument, "ref", argument)
