"""Makes a curve of many points small without losing its peaks, and smooths it."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]


def decimate(steps: Numbers, values: Numbers, points: int) -> tuple[Numbers, Numbers]:
    """At most about ``points`` points: the first, the least, the greatest and the last of each part of the curve.

    A part that holds a gap (NaN) keeps one point of it, so that the curve still has the gap.
    """
    if len(values) <= points:
        return steps, values
    edges = np.linspace(0, len(values), max(1, points // 5) + 1).astype(np.int64)
    keep: set[int] = set()
    for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        part = values[low:high]
        gaps = np.isnan(part)
        keep |= {low, high - 1}
        if gaps.any():
            keep.add(low + int(gaps.argmax()))
        if not gaps.all():
            keep |= {low + int(np.nanargmin(part)), low + int(np.nanargmax(part))}
    chosen = np.array(sorted(keep))
    return steps[chosen], values[chosen]


def smooth(values: Numbers, factor: float) -> Numbers:
    """The exponential moving average with weight ``factor`` in [0, 1) on the past, without the bias of its start.

    A gap stays a gap and leaves the average unchanged.
    """
    if factor <= 0:
        return values
    result = np.empty_like(values)
    total, weight = 0.0, 0.0
    for i, value in enumerate(values.tolist()):
        if math.isnan(value):
            result[i] = math.nan
            continue
        total, weight = factor * total + (1 - factor) * value, factor * weight + (1 - factor)
        result[i] = total / weight
    return result


def listed(values: Numbers) -> list[float | None]:
    """As a list for JSON, which has no NaN."""
    return [None if math.isnan(value) else value for value in values.tolist()]
