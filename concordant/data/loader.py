"""The examples of a step. They depend only on the seed and the step, so a resumed run needs no saved position."""

from __future__ import annotations

import math
from functools import lru_cache

from concordant.core.seeding import python_stream


def steps_of(count: int, batch_size: int, epochs: float, max_steps: int) -> int:
    """The number of optimizer steps of a run. If ``max_steps`` is 0, the epochs decide."""
    return max_steps or max(1, math.ceil(count * epochs / batch_size))


def batch_of(step: int, count: int, batch_size: int, seed: int) -> list[int]:
    """The numbers of the examples of ``step``. Every epoch has a new order. A batch may span two epochs."""
    first = step * batch_size
    return [_order(count, seed, i // count)[i % count] for i in range(first, first + batch_size)]


@lru_cache(maxsize=4)
def _order(count: int, seed: int, epoch: int) -> tuple[int, ...]:
    order = list(range(count))
    python_stream(seed, "data/order", epoch).shuffle(order)
    return tuple(order)
