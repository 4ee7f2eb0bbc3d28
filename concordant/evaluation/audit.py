"""The numbers of an audit of one reward, from its scores of pairs. Every number has an interval of 95 %.

P pairs, A answers, G prompts, S resamples, F sets of four, T prompts, W words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from concordant.evaluation.bootstrap import mean_of, percentile_interval, resampled_means
from concordant.evaluation.metrics import rounding, win_points
from concordant.evaluation.records import LEVEL, Interval, Mean
from concordant.evaluation.wilson import share_of

Numbers = NDArray[np.float64]
BINS = 10  # of confidence, as in the report of an evaluation


@dataclass(frozen=True, slots=True)
class Group:
    """Some of the pairs, and the share of them that the reward ranks as the data does, ties half."""

    name: str
    pairs: int
    accuracy: Mean


def by_group(right_P: Numbers, group_P: Sequence[str], order: Sequence[str] = ()) -> list[Group]:
    """The accuracy of each group with pairs, in the given ``order`` or by name, with Wilson's interval."""
    names = [name for name in order if name in set(group_P)] if order else sorted(set(group_P))
    found = []
    for name in names:
        inside_P = np.array([group == name for group in group_P])
        accuracy = share_of(float(right_P[inside_P].sum()), int(inside_P.sum()))
        assert accuracy is not None  # a group has a pair
        found.append(Group(name, int(inside_P.sum()), accuracy))
    return found


def best_of_four(score_F4: Numbers) -> Mean | None:
    """Points of the best answer, which stands first, over sets of four; guessing gives 0.25. None without a set.

    A set gives 1 if the best answer has the highest score alone, 1/k if it shares the highest score with k-1 others,
    and 0 else, as RewardBench 2 counts (Malik et al. 2025, 2506.01937).
    """
    if not len(score_F4):
        return None
    top_F = score_F4.max(axis=1)
    shares_F4 = score_F4 >= top_F[:, None] - rounding(score_F4)
    return share_of(float((shares_F4[:, 0] / shares_F4.sum(axis=1)).sum()), len(score_F4))


@dataclass(frozen=True, slots=True, kw_only=True)
class Consistency:
    """What a harmless change does to the scores."""

    pairs: int
    same: Mean | None  # share of the pairs that are still ranked the same way
    moved: Mean | None  # mean absolute change of an answer's score, in deviations of all answers' scores


def consistency(before_P2: Numbers, after_P2: Numbers, deviation: float, resamples: int, seed: int) -> Consistency:
    """Compares the scores of pairs, chosen answer first, before and after a change."""
    if not len(before_P2):
        return Consistency(pairs=0, same=None, moved=None)
    ranked = [win_points(x_P2[:, 0], x_P2[:, 1]) for x_P2 in (before_P2, after_P2)]
    moved_P = np.abs(after_P2 - before_P2).mean(axis=1) / (deviation or 1.0)
    return Consistency(
        pairs=len(before_P2),
        same=share_of(float((ranked[0] == ranked[1]).sum()), len(before_P2)),
        moved=mean_of(moved_P, resamples, seed),
    )


def calibration_error(chosen_P: Numbers, rejected_P: Numbers, resamples: int, seed: int) -> Mean:
    """The expected calibration error, with the interval of a bootstrap over pairs.

    It is the sum over bins of confidence σ(|Δ|) of |confidence - share ranked as the data does|, weighted by pairs. The
    noise of the bins alone makes it greater than 0, so the interval may lie above the true error.
    """
    right_P = win_points(chosen_P, rejected_P)
    confidence_P = 1 / (1 + np.exp(-np.abs(chosen_P - rejected_P)))
    bin_P = np.clip(((confidence_P - 0.5) * 2 * BINS).astype(int), 0, BINS - 1)
    gap_PB = (confidence_P - right_P)[:, None] * (bin_P[:, None] == np.arange(BINS))
    value = float(np.abs(gap_PB.mean(axis=0)).sum())
    error_S = np.abs(resampled_means(gap_PB, resamples, seed)).sum(axis=1)
    return _bootstrapped(value, error_S, len(right_P))


def explained(x_A: Numbers, y_A: Numbers, group_A: Sequence[object], resamples: int, seed: int) -> Mean | None:
    """R²: the share of the variance of y that a straight line in x explains. None where one of them does not vary."""
    found = correlation(x_A, y_A, group_A, resamples, seed)
    if found is None:
        return None
    value_S = found.resampled_S**2
    return _bootstrapped(found.value**2, value_S, len(x_A))


@dataclass(frozen=True, slots=True)
class Correlated:
    """A correlation, and its values on prompts that were drawn again, (S,)."""

    value: float
    resampled_S: Numbers
    count: int

    @property
    def mean(self) -> Mean:
        return _bootstrapped(self.value, self.resampled_S, self.count)


def correlation(x_A: Numbers, y_A: Numbers, group_A: Sequence[object], resamples: int, seed: int) -> Correlated | None:
    """Pearson's correlation, with a bootstrap over groups (the prompts). None where x or y does not vary."""
    if len(x_A) < 3 or np.ptp(x_A) <= rounding(x_A) or np.ptp(y_A) <= rounding(y_A):
        return None
    x_A, y_A = (x_A - x_A.mean()) / x_A.std(), (y_A - y_A.mean()) / y_A.std()
    numbers = {group: i for i, group in enumerate(dict.fromkeys(group_A))}
    group = np.array([numbers[group] for group in group_A])
    sums_G6 = np.zeros((len(numbers), 6))
    np.add.at(sums_G6, group, np.stack([np.ones_like(x_A), x_A, y_A, x_A * x_A, y_A * y_A, x_A * y_A], axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        resampled_S = _pearson(resampled_means(sums_G6, resamples, seed))
    return Correlated(float(_pearson(sums_G6.mean(axis=0)[None])[0]), resampled_S[np.isfinite(resampled_S)], len(x_A))


def _pearson(sums_S6: Numbers) -> Numbers:
    n, x, y, xx, yy, xy = sums_S6.T
    x, y = x / n, y / n
    return (xy / n - x * y) / np.sqrt((xx / n - x * x) * (yy / n - y * y))


def ranks(x_A: Numbers) -> Numbers:
    """Ranks from 1; equal values share the mean of their ranks. Pearson's correlation of ranks is Spearman's."""
    _, inverse, counts = np.unique(x_A, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    return (last - (counts - 1) / 2)[inverse].astype(np.float64)


def word_shifts(score_TW: Numbers, deviation: float, resamples: int, seed: int) -> list[Mean]:
    """For each word, its mean score less that of all words in the same prompt, in deviations of the data's scores."""
    shift_TW = score_TW - score_TW.mean(axis=1, keepdims=True)
    shift_TW = np.where(np.abs(shift_TW) <= rounding(score_TW), 0.0, shift_TW) / (deviation or 1.0)
    return [mean_of(shift_T, resamples, seed) for shift_T in shift_TW.T]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ensemble:
    """Several rewards together. Each is scaled so that its margins have a root mean square of 1."""

    members: tuple[Mean, ...]  # their accuracies
    mean: Mean  # the accuracy of the mean margin
    predicts: Mean | None  # P(an error has more disagreement than a right pair): 0.5 says nothing; None without both
    quarters: tuple[Group, ...]  # the accuracy of the mean, by quarters of disagreement, the least first


def ensemble(chosen_KP: Numbers, rejected_KP: Numbers) -> Ensemble:
    """How K rewards rank pairs together, and what their disagreement (deviation of their margins) says of errors."""
    margin_KP = chosen_KP - rejected_KP
    scale_K = np.sqrt((margin_KP**2).mean(axis=1))
    margin_KP = margin_KP / np.where(scale_K > 0, scale_K, 1.0)[:, None]
    mean_P, disagreement_P = margin_KP.mean(axis=0), margin_KP.std(axis=0)
    right_P = win_points(mean_P, np.zeros_like(mean_P))
    order = np.argsort(disagreement_P, kind="stable")
    names = ("least", "less", "more", "most")
    quarters = []
    for name, part in zip(names, np.array_split(order, len(names)), strict=True):
        accuracy = share_of(float(right_P[part].sum()), len(part))
        if accuracy is not None:
            quarters.append(Group(name, len(part), accuracy))
    return Ensemble(
        members=tuple(_share(win_points(c, r)) for c, r in zip(chosen_KP, rejected_KP, strict=True)),
        mean=_share(right_P),
        predicts=separates(disagreement_P[right_P < 0.5], disagreement_P[right_P > 0.5]),
        quarters=tuple(quarters),
    )


def separates(high: Numbers, low: Numbers) -> Mean | None:
    """P(a value of ``high`` is above one of ``low``), ties half: the area under the ROC curve.  DeLong et al. 1988.

    None where one of them has fewer than two values. The standard error is DeLong's.
    """
    if min(len(high), len(low)) < 2:
        return None
    ordered = np.sort(low)
    above_H = (np.searchsorted(ordered, high, "left") + np.searchsorted(ordered, high, "right")) / (2 * len(low))
    ordered = np.sort(high)
    above_L = 1 - (np.searchsorted(ordered, low, "left") + np.searchsorted(ordered, low, "right")) / (2 * len(high))
    value = float(above_H.mean())
    error = float((above_H.var(ddof=1) / len(high) + above_L.var(ddof=1) / len(low)) ** 0.5)
    arm = NormalDist().inv_cdf((1 + LEVEL) / 2) * error
    ends = Interval(max(0.0, value - arm), min(1.0, value + arm))
    return Mean(value=value, error=error, count=len(high) + len(low), interval=ends)


def _share(right_P: Numbers) -> Mean:
    found = share_of(float(right_P.sum()), len(right_P))
    assert found is not None  # an audit has a pair
    return found


def _bootstrapped(value: float, x_S: Numbers, count: int) -> Mean:
    interval = percentile_interval(x_S) if len(x_S) else None
    return Mean(value=value, error=float(x_S.std()) if len(x_S) else None, count=count, interval=interval)
