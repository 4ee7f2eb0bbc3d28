"""Ranks: the processes that compute the parts of one batch together, and how they sum their results.

A learner, scorer or generator of ``engines/local`` asks its ranks which shards of a batch are its own. In a run of one
process there is one rank, which computes all shards.

Where a model is split over processes, the processes form a mesh, pipeline × data × tensor. ``engines/tensor`` splits
every layer, and ``engines/pipeline`` gives each process some of the layers. A *rank* here is a place on the data axis.
All processes that hold a part of one model together have the same rank: they compute the same shards and hold the same
results, which are therefore counted once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar

from torch import Tensor

from concordant.core.axis import Axis, Chain, NoAxis, NoChain
from concordant.core.shards import shards_of_rank

T = TypeVar("T")


class Ranks(Protocol):
    """One of ``size`` places on the data axis. All processes make the same calls in the same order."""

    rank: int
    size: int
    shards: int  # parts of every batch; 1 in one process that splits no batch
    in_order: bool  # every sum has a fixed order, so that its bits do not depend on the number of processes
    tensor: Axis  # the processes that hold the parts of this rank's layers
    stages: Chain  # the processes that hold this rank's layers one after another
    sharded: bool  # every learner splits its weights, gradients and optimizer state over the ranks
    offload: bool  # between uses, these parts are in the processor's memory and not in a GPU's

    def sum(self, x: Tensor) -> Tensor:
        """The sum of the 1-D ``x`` of all ranks, the same bits on every rank.

        With shards in a fixed order, it is the binary tree of ``core/shards.py``. ``x`` may change.
        """
        ...

    def gather(self, value: Any) -> list[Any]:
        """The ``value`` of every rank, in the order of the ranks."""
        ...

    def mesh(self, device: str) -> Any:
        """The ranks over which weights on ``device`` ("cpu" or "cuda") are split, as PyTorch's DeviceMesh."""
        ...


class Alone:
    """The only rank. ``shards`` above 1 splits every batch, so that the numbers equal those of several ranks."""

    rank, size, in_order, sharded, offload = 0, 1, True, False, False
    tensor: Axis = NoAxis()
    stages: Chain = NoChain()

    def __init__(self, shards: int = 1) -> None:
        self.shards = shards

    def sum(self, x: Tensor) -> Tensor:
        return x

    def gather(self, value: Any) -> list[Any]:
        return [value]

    def mesh(self, device: str) -> Any:
        raise ValueError("one rank splits no weights")


def writes(ranks: Ranks) -> bool:
    """Whether this process writes the files of all of them."""
    return ranks.rank == 0 and ranks.tensor.rank == 0 and ranks.stages.rank == 0


def own_shards(ranks: Ranks) -> range:
    """The numbers of the shards that this rank computes."""
    return shards_of_rank(ranks.shards, ranks.size, ranks.rank)


def gathered(ranks: Ranks, own: list[T]) -> list[T]:
    """The values of all shards in their order, where ``own`` are those of this rank's shards."""
    return [value for of_rank in ranks.gather(own) for value in of_rank]


_current: ContextVar[Ranks | None] = ContextVar("ranks", default=None)


def current_ranks() -> Ranks:
    """The ranks that a newly made learner, scorer or generator belongs to."""
    return _current.get() or Alone()


@contextmanager
def among(ranks: Ranks) -> Iterator[None]:
    """Inside the block, newly made learners, scorers and generators belong to ``ranks``."""
    token = _current.set(ranks)
    try:
        yield
    finally:
        _current.reset(token)
