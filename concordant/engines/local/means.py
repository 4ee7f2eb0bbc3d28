"""Metrics over the micro-batches of a shard, and over the shards of a batch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from concordant.core.objective import Metric
from concordant.core.shards import tree_sum


class Sum(NamedTuple):
    """A metric over a shard, in plain numbers, which can be sent to other ranks."""

    sum: float
    weight: float
    reduce: str  # as in Metric


class Means:
    """Metrics over micro-batches. They stay on the device until the end, so that there is only one transfer."""

    def __init__(self) -> None:
        self._sums: dict[str, Metric] = {}

    def add(self, metrics: Mapping[str, Metric]) -> None:
        for name, new in metrics.items():
            old = self._sums.get(name)
            if old is None:
                self._sums[name] = Metric(new.sum, new.weight, new.reduce)
            elif new.reduce == "max":
                old.sum = torch.maximum(old.sum, new.sum)
            else:
                old.sum, old.weight = old.sum + new.sum, old.weight + new.weight

    def sums(self) -> dict[str, Sum]:
        sums = _numbers([m.sum for m in self._sums.values()])
        weights = _numbers([m.weight for m in self._sums.values()])
        return {
            name: Sum(total, weight, m.reduce)
            for (name, m), total, weight in zip(self._sums.items(), sums, weights, strict=True)
        }


def over_shards(shards: Sequence[dict[str, Sum]]) -> dict[str, float]:
    """The metrics of a whole batch from those of its shards, in the order of the shards."""
    total = tree_sum(shards, _plus)
    return {name: m.sum / m.weight if m.reduce == "mean" and m.weight else m.sum for name, m in total.items()}


def weights_over_shards(shards: Sequence[dict[str, float]]) -> dict[str, float]:
    """The weight of each term over a whole batch."""

    def plus(left: dict[str, float], right: dict[str, float]) -> dict[str, float]:
        return {name: left.get(name, 0.0) + right.get(name, 0.0) for name in {**left, **right}}

    return tree_sum(shards, plus)


def _plus(left: dict[str, Sum], right: dict[str, Sum]) -> dict[str, Sum]:
    both = dict(left)
    for name, new in right.items():
        old = both.get(name)
        if old is None:
            both[name] = new
        elif new.reduce == "max":
            both[name] = Sum(math.nan if math.isnan(new.sum) else max(new.sum, old.sum), old.weight, old.reduce)
        else:
            both[name] = Sum(old.sum + new.sum, old.weight + new.weight, old.reduce)
    return both


def _numbers(scalars: Sequence[Tensor | float]) -> list[float]:
    """The scalars as numbers of Python. Those on a GPU come in one transfer; double precision keeps every bit."""
    afar = {i: x.double() for i, x in enumerate(scalars) if isinstance(x, Tensor) and x.device.type != "cpu"}
    numbers = dict(zip(afar, torch.stack([*afar.values()]).tolist() if afar else (), strict=True))
    return [numbers[i] if i in numbers else float(x) for i, x in enumerate(scalars)]
