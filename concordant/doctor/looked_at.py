"""Which records and trees a check looks at, and how many it needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")
FEW = 50  # with fewer records, a share of them says little


def spread(items: Sequence[T], count: int) -> list[T]:
    """At most ``count`` items, evenly spaced."""
    return list(items[:: max(1, -(-len(items) // count))])
