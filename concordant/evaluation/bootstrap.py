"""Percentile bootstrap over prompts (Efron 1979): how much a mean would change with other prompts.

M columns, S resamples.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from concordant.core.seeding import derive
from concordant.evaluation.records import Interval

DRAWS_AT_ONCE = 1_000_000  # prompt numbers that are drawn together, to limit memory


def _draws(prompts: int, resamples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    stream = np.random.default_rng(derive(seed, "evaluation/bootstrap"))
    rows = max(1, DRAWS_AT_ONCE // prompts)
    for start in range(0, resamples, rows):
        yield stream.integers(0, prompts, size=(min(rows, resamples - start), prompts))


def resampled_means(x_GM: NDArray[np.float64], resamples: int, seed: int) -> NDArray[np.float64]:
    """The means of each column over G prompts drawn with replacement, shape (S, M).

    Every column, and every call with the same G, S and seed, uses the same draws. So differences between policies are
    paired.
    """
    columns = x_GM.T
    blocks = [
        np.stack([x_G[draw].mean(axis=1) for x_G in columns], axis=1) for draw in _draws(len(x_GM), resamples, seed)
    ]
    return np.concatenate(blocks)


def percentile_interval(x_S: NDArray[np.float64], level: float = 0.95) -> Interval:
    """The interval that holds the middle ``level`` of the resamples."""
    low, high = np.quantile(x_S, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def mean_interval(x_G: NDArray[np.float64], resamples: int, seed: int) -> Interval | None:
    """The 95 % interval of the mean over prompts; None without resamples."""
    if resamples < 1:
        return None
    return percentile_interval(resampled_means(x_G[:, None], resamples, seed)[:, 0])
