"""Which policies are shown to be better than which: every pair is compared on the same prompts.

Of several intervals of 95 %, one misses its true value more often than one time in twenty. So each interval of m
comparisons has the level 1 - 0.05/m, and all of them together hold with 95 % (Bonferroni). The intervals are expanded,
so that they hold for few prompts too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from concordant.evaluation.bootstrap import expanded, mean_of
from concordant.evaluation.records import LEVEL, Comparison, Mean, Verdict


def verdict_on(scores: Mapping[str, NDArray[np.float64]], bootstrap: int, seed: int) -> Verdict | None:
    """Compare all policies, given the scores of each for G prompts; None for a single policy."""
    if len(scores) < 2:
        return None
    ranked = sorted(scores, key=lambda name: -float(scores[name].mean()))
    pairs = list(combinations(ranked, 2))
    level, fewest = 1 - (1 - LEVEL) / len(pairs), fewest_prompts(len(pairs))
    found = []
    for first, second in pairs:
        difference_G = scores[first] - scores[second]
        difference = mean_of(difference_G, bootstrap, seed, level=expanded(level, len(difference_G)))
        found.append(Comparison(first=first, second=second, difference=difference, is_shown=_shows(difference, fewest)))
    return Verdict(level=level, fewest=fewest, comparisons=tuple(found))


def fewest_prompts(comparisons: int) -> int:
    """The smallest number of prompts that can show a difference.

    If two policies are equally good, all G differences have one sign with probability 2^(1-G). The bootstrap calls that
    a difference whatever G is, so this probability must be at most 0.05 over the number of comparisons.
    """
    return math.ceil(1 + math.log2(comparisons / (1 - LEVEL)))


def _shows(difference: Mean, fewest: int) -> bool:
    interval = difference.interval
    return interval is not None and interval.low > 0 and difference.count >= fewest
