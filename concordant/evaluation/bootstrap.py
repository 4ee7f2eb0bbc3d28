"""Percentile bootstrap over prompts (Efron 1979): how much a mean would change with other prompts.

M columns, S resamples.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from concordant.core.digits import share_error
from concordant.core.seeding import derive
from concordant.evaluation.records import LEVEL, Interval, Mean

DRAWS_AT_ONCE = 1_000_000  # prompt numbers that are drawn together, to limit memory


def _draws(prompts: int, resamples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    if prompts * resamples <= DRAWS_AT_ONCE:
        yield _few_draws(prompts, resamples, seed)
        return
    stream = np.random.default_rng(derive(seed, "evaluation/bootstrap"))
    rows = max(1, DRAWS_AT_ONCE // prompts)
    for start in range(0, resamples, rows):
        yield stream.integers(0, prompts, size=(min(rows, resamples - start), prompts))


@functools.lru_cache(maxsize=1)  # every column of a report's table needs the same draws
def _few_draws(prompts: int, resamples: int, seed: int) -> NDArray[np.int64]:
    stream = np.random.default_rng(derive(seed, "evaluation/bootstrap"))
    return stream.integers(0, prompts, size=(resamples, prompts))


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


def percentile_interval(x_S: NDArray[np.float64], level: float = LEVEL) -> Interval:
    """The interval that holds the middle ``level`` of the resamples."""
    low, high = np.quantile(x_S, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def expanded(level: float, count: int) -> float:
    """The level at which the percentile interval of ``count`` values must be taken to hold with ``level``.

    Resamples vary less than the mean does, by √((n-1)/n), and have a normal's tails where Student's t is right. So the
    usual interval is too narrow for few values: of ten, at 0.95 it must be taken at 0.983.  Hesterberg 2015.
    """
    if count < 2:
        return 1.0
    normal, free = NormalDist(), count - 1
    z = normal.inv_cdf((1 + level) / 2)
    # Student's t, by its expansion in 1/free around the normal: Abramowitz & Stegun 1964, 26.7.5.
    t = z + (z**3 + z) / (4 * free) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)
    return 1 - 2 * normal.cdf(-t * (count / free) ** 0.5)


def mean_interval(x_G: NDArray[np.float64], resamples: int, seed: int, level: float = LEVEL) -> Interval | None:
    """The interval of the mean over prompts; None without resamples."""
    if resamples < 1:
        return None
    return percentile_interval(resampled_means(x_G[:, None], resamples, seed)[:, 0], level)


def mean_of(
    x_G: NDArray[np.float64], resamples: int, seed: int, *, is_share: bool = False, level: float = LEVEL
) -> Mean:
    """The mean over G prompts with its standard error and its interval. An infinite value leaves both unknown."""
    value, count = float(x_G.mean()), len(x_G)
    if not np.isfinite(x_G).all():
        return Mean(value=value, error=None, count=count, interval=None, is_share=is_share)
    error = float(x_G.std(ddof=1)) / count**0.5 if count > 1 else None
    interval = mean_interval(x_G, resamples, seed, level)
    if count > 1 and x_G.min() == x_G.max():  # found exactly, so that rounding is never taken for a deviation
        error, interval = 0.0, interval and Interval(value, value)
    return Mean(
        value=value,
        error=share_error(value, count) if is_share else error,
        count=count,
        interval=interval,
        is_share=is_share,
    )


def ratio_of(top_G: NDArray[np.float64], bottom_G: NDArray[np.float64], resamples: int, seed: int) -> Mean:
    """The ratio of two sums over G texts, such as nats over tokens, with its standard error and its interval."""
    ratio, count = float(top_G.sum() / bottom_G.sum()), len(top_G)
    interval = None
    if resamples > 0:
        means_S2 = resampled_means(np.stack([top_G, bottom_G], axis=1), resamples, seed)
        interval = percentile_interval(means_S2[:, 0] / means_S2[:, 1])
    # The usual error of a ratio of sums: the deviation of what the ratio leaves unexplained.
    left_G = top_G - ratio * bottom_G
    error = float(left_G.std(ddof=1)) * count**0.5 / float(bottom_G.sum()) if count > 1 else None
    return Mean(value=ratio, error=error, count=count, interval=interval)
