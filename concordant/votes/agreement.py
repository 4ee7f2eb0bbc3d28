"""How far raters agree beyond chance: Cohen's and Fleiss' kappa and Krippendorff's alpha, for nominal labels.

Each says on how many pairs it rests. A pair with a single vote says nothing about agreement, so it counts nowhere. A
value is None where chance alone would agree always, because all labels are equal, or where nothing is left to compare.

U units (pairs), C categories.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from concordant.evaluation.bootstrap import expanded, percentile_interval, resampled_means
from concordant.evaluation.records import LEVEL, Interval

Labels = Mapping[str, str]  # the labels of one pair, by rater
Array = NDArray[np.float64]
FEWEST = 6  # units of an interval; resamples of fewer are nearly all alike


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """1: raters always agree; 0: as often as by chance; below 0: less often."""

    value: float | None
    units: int  # pairs that it rests on
    of: int  # pairs with at least one label
    interval: Interval | None = None  # of 95 %, over pairs

    @property
    def coverage(self) -> float:
        return self.units / self.of if self.of else 0.0


def cohens_kappa(first: Sequence[str], second: Sequence[str], of: int | None = None, bootstrap: int = 0) -> Agreement:
    """κ = (p_o - p_e) / (1 - p_e) of two raters' labels for the same units.  Cohen 1960.

    p_o is the share of equal labels. p_e = Σ_c p_1c·p_2c is the share that is expected of two raters who use the labels
    as often and know nothing of each other. ``of``: pairs with a label of either rater, where there are more.
    """
    names = sorted({*first, *second})
    equal_U1 = np.array([[float(a == b)] for a, b in zip(first, second, strict=True)]).reshape(-1, 1)
    one_UC, two_UC = (np.array([[float(x == c) for c in names] for x in side]) for side in (first, second))

    def kappa(mean: Array) -> Array:
        count = len(names)
        chance = (mean[:, 1 : 1 + count] * mean[:, 1 + count :]).sum(axis=1)
        return _beyond(mean[:, 0], chance)

    columns = np.concatenate([equal_U1, one_UC.reshape(-1, len(names)), two_UC.reshape(-1, len(names))], axis=1)
    return _agreement(columns, kappa, of or len(first), bootstrap)


def fleiss_kappa(labels: Sequence[Labels], bootstrap: int = 0) -> Agreement:
    """κ = (P̄ - P̄_e) / (1 - P̄_e) of pairs that have equally many labels, from any raters.  Fleiss 1971, eqs. 3 to 7.

    P_u = (Σ_c n_uc² - n) / (n(n - 1)) is the share of equal labels among the pairs of raters of unit u, and P̄_e = Σ_c
    p_c². Fleiss' kappa needs one number n of labels. It is the number of two or more that most pairs have; pairs with
    another number are left out, and the coverage says so.
    """
    labelled = [unit for unit in labels if unit]
    sizes = Counter(len(unit) for unit in labelled if len(unit) > 1)
    size = max(sizes, key=lambda n: (sizes[n], n), default=0)
    kept = [unit for unit in labelled if len(unit) == size]
    n_UC = _counts(kept)

    def kappa(mean: Array) -> Array:
        return _beyond(mean[:, 0], (mean[:, 1:] ** 2).sum(axis=1))

    pairs_U1 = ((n_UC**2).sum(axis=1, keepdims=True) - size) / max(size * (size - 1), 1)
    return _agreement(np.concatenate([pairs_U1, n_UC / max(size, 1)], axis=1), kappa, len(labelled), bootstrap)


def krippendorffs_alpha(labels: Sequence[Labels], bootstrap: int = 0) -> Agreement:
    """α = 1 - (n - 1)(n - Σ_c o_cc) / (n² - Σ_c n_c²), for nominal labels.  Krippendorff 2011, section C.

    n_c counts the labels c and n all labels, of units that have two or more. o_cc = Σ_u n_uc(n_uc - 1) / (m_u - 1) for
    m_u labels of unit u. Units may have any number of labels, from any raters.
    """
    labelled = [unit for unit in labels if unit]
    kept = [unit for unit in labelled if len(unit) > 1]
    n_UC = _counts(kept)
    size_U1 = n_UC.sum(axis=1, keepdims=True)
    equal_U1 = (n_UC * (n_UC - 1)).sum(axis=1, keepdims=True) / np.maximum(size_U1 - 1, 1)

    def alpha(mean: Array) -> Array:
        sums = mean * len(kept)
        n = sums[:, 1:].sum(axis=1)
        differ = n**2 - (sums[:, 1:] ** 2).sum(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(differ > 0, 1 - (n - 1) * (n - sums[:, 0]) / differ, np.nan)

    return _agreement(np.concatenate([equal_U1, n_UC], axis=1), alpha, len(labelled), bootstrap)


def of_two_raters(labels: Sequence[Labels], bootstrap: int = 0) -> dict[tuple[str, str], Agreement]:
    """Cohen's kappa of every two raters who share a pair, by their names."""
    names = sorted({rater for unit in labels for rater in unit})
    found = {}
    for one, two in combinations(names, 2):
        both = [(unit[one], unit[two]) for unit in labels if one in unit and two in unit]
        if both:
            of = sum(one in unit or two in unit for unit in labels)
            first, second = zip(*both, strict=True)
            found[one, two] = cohens_kappa(first, second, of, bootstrap)
    return found


def _beyond(observed: Array, chance: Array) -> Array:
    """(observed - chance) / (1 - chance); NaN where chance is 1."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(chance < 1 - 1e-12, (observed - chance) / (1 - chance), np.nan)


def _counts(units: Sequence[Labels]) -> Array:
    """(U, C): how often each unit has each label."""
    names = sorted({label for unit in units for label in unit.values()})
    counts = [[list(unit.values()).count(name) for name in names] for unit in units]
    return np.array(counts, np.float64).reshape(len(units), len(names))


def _agreement(columns: Array, of_means: Callable[[Array], Array], of: int, bootstrap: int) -> Agreement:
    """The statistic, which is a function of the columns' means over units, and its bootstrap interval."""
    units = len(columns)
    if not units:
        return Agreement(value=None, units=0, of=of)
    value = float(of_means(columns.mean(axis=0)[None])[0])
    if np.isnan(value):
        return Agreement(value=None, units=units, of=of)
    interval = None
    if bootstrap > 0 and units >= FEWEST:
        drawn = of_means(resampled_means(columns, bootstrap, 0))
        drawn = np.where(np.isnan(drawn), 1.0, drawn)  # a resample whose labels are all equal: nothing disagrees
        interval = percentile_interval(drawn, expanded(LEVEL, units))
    return Agreement(value=value, units=units, of=of, interval=interval)
