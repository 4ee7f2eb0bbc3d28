"""From the times of sides that took turns to what may be claimed of them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times faster ours was: the median of neighbouring turns' ratios, not the ratio of medians, so that a
    machine that slows down for a while slows both sides of a ratio."""

    median: float
    least: float
    greatest: float

    def __str__(self) -> str:
        return f"{self.median:.2f}× ({self.least:.2f}–{self.greatest:.2f})"


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> Ratio:
    """Of seconds, turn by turn."""
    each = [t / o for t, o in zip(theirs, ours, strict=True)]
    return Ratio(statistics.median(each), min(each), max(each))


def agree(ours: Sequence[float], theirs: Sequence[float], tolerance: float) -> bool:
    """Whether the losses are the same to a share ``tolerance`` of the larger."""
    return all(abs(a - b) <= tolerance * max(abs(a), abs(b)) for a, b in zip(ours, theirs, strict=True))
