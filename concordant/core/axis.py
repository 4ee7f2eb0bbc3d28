"""An axis of the mesh: the processes that each hold a part of the same layers, and how they exchange tensors."""

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
