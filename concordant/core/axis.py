"""An axis of the mesh: the processes that each hold a part of one model, and how they exchange tensors."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor


class Axis(Protocol):
    """One of ``size`` processes that make the same calls in the same order. No call changes its argument."""

    rank: int
    size: int

    def sum(self, x: Tensor) -> Tensor:
        """The sum of ``x`` over the processes, the same bits on each."""
        ...

    def highest(self, x: Tensor) -> Tensor:
        """The largest ``x`` of all processes, element by element."""
        ...

    def gather(self, x: Tensor) -> list[Tensor]:
        """The ``x`` of every process, in their order. All have one shape."""
        ...

    def first(self, x: Tensor) -> Tensor:
        """The ``x`` of the first process."""
        ...

    def values(self, value: Any) -> list[Any]:
        """The plain ``value`` of every process, in their order."""
        ...


class Chain(Axis, Protocol):
    """An axis whose processes hold the layers of a model one after another."""

    def of(self, x: Tensor, place: int) -> Tensor:
        """The ``x`` of the process at ``place``, which gets it back without a copy. All have one shape."""
        ...

    def pass_on(self, x: Tensor, backwards: bool) -> None:
        """Give ``x`` to the next process, or to the previous one, without waiting until that process takes it."""
        ...

    def take(self, like: Tensor, backwards: bool) -> Tensor:
        """Wait for what the previous process passes on, or the next one backwards. It has the shape of ``like``."""
        ...

    def settle(self) -> None:
        """Wait until everything that this process passed on has been taken."""
        ...


class NoAxis:
    """An axis of one process: every layer is whole."""

    rank, size = 0, 1

    def sum(self, x: Tensor) -> Tensor:
        return x

    def highest(self, x: Tensor) -> Tensor:
        return x

    def gather(self, x: Tensor) -> list[Tensor]:
        return [x]

    def first(self, x: Tensor) -> Tensor:
        return x

    def values(self, value: Any) -> list[Any]:
        return [value]


class NoChain(NoAxis):
    """A chain of one process, which passes nothing on."""

    def of(self, x: Tensor, place: int) -> Tensor:
        return x

    def pass_on(self, x: Tensor, backwards: bool) -> None:
        raise ValueError("one process has no neighbour")

    def take(self, like: Tensor, backwards: bool) -> Tensor:
        raise ValueError("one process has no neighbour")

    def settle(self) -> None:
        pass
