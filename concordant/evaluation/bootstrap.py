"""Percentile bootstrap over prompts (Efron 1979): how far a mean would move with other prompts.

P prompts, K columns, S resamples.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from concordant.core.seeding import derive
from concordant.evaluation.records import Interval

DRAWS_AT_ONCE = 1_000_000  # prompt numbers drawn together: bounds memory, whatever P and S


def _draws(prompts: int, resamples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    stream = np.random.default_rng(derive(seed, "evaluation/bootstrap"))
    rows = max(1, DRAWS_AT_ONCE // prompts)
    for start in range(0, resamples, rows):
        yield stream.integers(0, prompts, size=(min(rows, resamples - start), prompts))


def resampled_means(x_PK: NDArray[np.float64], resamples: int, seed: int) -> NDArray[np.float64]:
    """Means of each column over P prompts drawn with replacement, shape (S, K).

    The same prompts are drawn for every column and every call with the same P, S and seed, so
    differences between policies are paired.
    """
    columns = x_PK.T
    blocks = [
        np.stack([x_P[draw].mean(axis=1) for x_P in columns], axis=1) for draw in _draws(len(x_PK), resamples, seed)
    ]
    return np.concatenate(blocks)


def percentile_interval(x_S: NDArray[np.float64], level: float = 0.95) -> Interval:
    """The middle ``level`` of the resamples."""
    low, high = np.quantile(x_S, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def mean_interval(x_P: NDArray[np.float64], resamples: int, seed: int) -> Interval | None:
    """95 % interval of the mean over prompts; None when no resamples are asked for."""
    if resamples < 1:
        return None
    return percentile_interval(resampled_means(x_P[:, None], resamples, seed)[:, 0])
