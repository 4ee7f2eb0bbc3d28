"""Makes a curve of many points small without losing its peaks, and smooths it."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

_KEPT = 5  # points of each part: the first, the last, the least, the greatest, and a gap
_RANGE = 1e-9  # least weight of the past inside a block of ``smooth``; a smaller one would lose digits


def decimate(steps: Numbers, values: Numbers, points: int) -> tuple[Numbers, Numbers]:
    """At most about ``points`` points: the first, the last, the least and the greatest of each part of the curve.

    A part that has a gap (NaN) also keeps one point of the gap, so that the curve is still drawn with it.
    """
    size = len(values)
    if size <= points:
        return steps, values
    width = math.ceil(size / max(1, points // _KEPT))
    parts = math.ceil(size / width)
    padded = np.full(parts * width, np.nan)
    padded[:size] = values
    table = padded.reshape(parts, width)
    gaps = np.isnan(table)
    starts = np.arange(parts) * width
    keep = np.zeros(parts * width, dtype=bool)
    keep[starts] = True
    keep[np.minimum(starts + width, size) - 1] = True
    keep[starts + np.where(gaps, np.inf, table).argmin(axis=1)] = True
    keep[starts + np.where(gaps, -np.inf, table).argmax(axis=1)] = True
    keep[starts + gaps.argmax(axis=1)] = True
    chosen = np.flatnonzero(keep[:size])
    return steps[chosen], values[chosen]


def smooth(values: Numbers, factor: float) -> Numbers:
    """The exponential moving average with weight ``factor`` in [0, 1) on the past, without the bias of its start.

    A gap stays a gap and leaves the average unchanged.
    """
    known = ~np.isnan(values)
    if factor <= 0 or not known.any():
        return values
    given = values[known]
    result = np.empty_like(given)
    block = max(1, int(math.log(_RANGE) / math.log(factor)))
    total, weight = 0.0, 0.0  # of the values before the block, weighted, and the sum of these weights
    for low in range(0, len(given), block):
        part = given[low : low + block]
        powers = factor ** np.arange(1, len(part) + 1)
        totals = powers * (total + (1 - factor) * np.cumsum(part / powers))
        weights = powers * (weight + (1 - factor) * np.cumsum(1 / powers))
        result[low : low + block] = totals / weights
        total, weight = float(totals[-1]), float(weights[-1])
    smoothed = np.full_like(values, np.nan)
    smoothed[known] = result
    return smoothed


def at_same_steps(x: tuple[Numbers, Numbers], y: tuple[Numbers, Numbers]) -> tuple[Numbers, Numbers, Numbers]:
    """The steps that both curves have, and the values of both there. A step counts once, with its last value."""
    x_steps, x_at = _last_of_each(*x)
    y_steps, y_at = _last_of_each(*y)
    steps, of_x, of_y = np.intersect1d(x_steps, y_steps, assume_unique=True, return_indices=True)
    return steps, x_at[of_x], y_at[of_y]


def listed(values: Numbers) -> list[float | None]:
    """As a list for JSON, which has no NaN."""
    return [None if value != value else value for value in values.tolist()]


def _last_of_each(steps: Numbers, values: Numbers) -> tuple[Numbers, Numbers]:
    unique, from_end = np.unique(steps[::-1], return_index=True)
    return unique, values[::-1][from_end]
