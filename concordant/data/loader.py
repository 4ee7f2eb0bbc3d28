"""Which examples a step sees: a function of the seed and the step alone, so resuming needs no position."""

from __future__ import annotations

import math
from functools import lru_cache

from concordant.core.seeding import python_stream


def steps_of(count: int, batch_size: int, epochs: float, max_steps: int) -> int:
    """Optimizer steps a run takes; ``max_steps`` 0 means as many as the epochs give."""
    return max_steps or max(1, math.ceil(count * epochs / batch_size))


def batch_of(step: int, count: int, batch_size: int, seed: int) -> list[int]:
    """Numbers of the examples of ``step``. Every epoch is a new order; a batch may span two epochs."""
    first = step * batch_size
    return [_order(count, seed, i // count)[i % count] for i in range(first, first + batch_size)]


@lru_cache(maxsize=4)
def _order(count: int, seed: int, epoch: int) -> tuple[int, ...]:
    order = list(range(count))
    python_stream(seed, "data/order", epoch).shuffle(order)
    return tuple(order)
