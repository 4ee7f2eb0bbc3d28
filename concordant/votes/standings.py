"""Which policy wins the votes: Bradley–Terry ratings, the win matrix, and how many labels are still needed.

K policies, G prompts, S resamples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from concordant.evaluation.bootstrap import expanded, percentile_interval, resampled_means
from concordant.evaluation.ratings import bradley_terry_ratings
from concordant.evaluation.records import LEVEL, Mean, Rating, Ratings
from concordant.evaluation.wilson import share_of
from concordant.votes.rows import Pair, Vote

BOOTSTRAP = 1000
FEWEST_PROMPTS = 6  # with fewer no interval is given
_Z = 1.959964  # of a normal's middle 95 %
POINTS = {"first": 1.0, "second": 0.0, "tie": 0.5, "bad": 0.5}  # of the first answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Needed:
    """About how many more labels tell the two best policies apart."""

    better: str
    worse: str
    more: int | None  # None: the two have equal ratings so far
    low: int
    high: int | None  # None: no number of labels may be enough, because the two may be equally good


@dataclass(frozen=True, slots=True, kw_only=True)
class Standings:
    ratings: Ratings
    labels: int  # verdicts on pairs of two different policies
    needed: Needed | None  # None without an interval


def standings(
    pairs: Sequence[Pair], votes: Sequence[Vote], bootstrap: int = BOOTSTRAP, seed: int = 0, anchor: str = ""
) -> Standings | None:
    """Ratings in points from all verdicts on pairs of two policies; None without such a verdict.

    A tie, and two bad answers, count half for each policy. Intervals of 95 % come from resamples of prompts: a prompt
    is taken with all its pairs and all their votes, because votes on one text are not independent. ``anchor`` has the
    rating 0; it is "sft" or else the first policy in the alphabet if it is not given. Gold pairs do not count.
    """
    known = {p.id: p for p in pairs if p.gold is None and p.first_policy and p.second_policy}
    known = {number: p for number, p in known.items() if p.first_policy != p.second_policy}
    verdicts = [vote for vote in votes if vote.is_verdict and vote.pair in known]
    if not verdicts:
        return None
    names = sorted({name for vote in verdicts for name in _policies(known[vote.pair])})
    wins_GKK = _wins(known, verdicts, names)
    prompts, count = len(wins_GKK), len(names)
    anchor = anchor if anchor in names else "sft" if "sft" in names else names[0]
    at = names.index(anchor)
    value_K = bradley_terry_ratings(wins_GKK.sum(axis=0))
    rated_SK = None
    if bootstrap > 0 and prompts >= FEWEST_PROMPTS:
        means = resampled_means(wins_GKK.reshape(prompts, -1), bootstrap, seed)
        rated_SK = bradley_terry_ratings(prompts * means.reshape(-1, count, count))
    ratings: dict[str, Rating] = {}
    for k, name in enumerate(names):
        interval = None
        if rated_SK is not None:
            interval = percentile_interval(rated_SK[:, k] - rated_SK[:, at], expanded(LEVEL, prompts))
        ratings[name] = Rating(float(value_K[k] - value_K[at]), interval)
    matrix = _matrix(known, verdicts, names)
    needed = None if rated_SK is None else _needed(names, value_K, rated_SK, len(verdicts))
    return Standings(ratings=Ratings(anchor=anchor, ratings=ratings, wins=matrix), labels=len(verdicts), needed=needed)


def labels_needed(lead: float, error: float, labels: int) -> tuple[int | None, int, int | None]:
    """How many labels more until a 95 % interval of ``lead`` does not hold 0: a number, and its lowest and highest.

    The standard error falls as 1/√n, so that n·(1.96·error/lead)² labels are enough for this lead. The lowest and the
    highest number are those of the ends of the lead's own interval; an end that reaches 0 needs infinitely many (None).
    """

    def more(distance: float) -> int | None:
        return None if distance <= 0 else max(0, math.ceil(labels * (_Z * error / distance) ** 2) - labels)

    farthest = more(abs(lead) + _Z * error)
    return more(abs(lead)), farthest or 0, more(abs(lead) - _Z * error)


def _needed(
    names: Sequence[str], value_K: NDArray[np.float64], rated_SK: NDArray[np.float64], labels: int
) -> Needed | None:
    if len(names) < 2:
        return None
    better, worse = (int(k) for k in np.argsort(-value_K, kind="stable")[:2])
    error = float((rated_SK[:, better] - rated_SK[:, worse]).std(ddof=1))
    more, low, high = labels_needed(float(value_K[better] - value_K[worse]), error, labels)
    return Needed(better=names[better], worse=names[worse], more=more, low=low, high=high)


def _policies(pair: Pair) -> tuple[str, str]:
    return pair.first_policy, pair.second_policy


def _wins(known: dict[int, Pair], verdicts: Sequence[Vote], names: Sequence[str]) -> NDArray[np.float64]:
    """(G, K, K): for each prompt, the points of the row's policy against the column's."""
    number = {name: k for k, name in enumerate(names)}
    prompts: dict[str, int] = {}
    for vote in verdicts:
        prompts.setdefault(repr(known[vote.pair].prompt), len(prompts))
    wins = np.zeros((len(prompts), len(names), len(names)))
    for vote in verdicts:
        pair = known[vote.pair]
        g, (first, second) = prompts[repr(pair.prompt)], (number[name] for name in _policies(pair))
        wins[g, first, second] += POINTS[vote.choice]
        wins[g, second, first] += 1 - POINTS[vote.choice]
    return wins


def _matrix(known: dict[int, Pair], verdicts: Sequence[Vote], names: Sequence[str]) -> dict[str, dict[str, Mean]]:
    """How often each policy wins against each other one. A pair counts once, with the mean of its votes."""
    by_pair: dict[int, list[float]] = {}
    for vote in verdicts:
        by_pair.setdefault(vote.pair, []).append(POINTS[vote.choice])
    points: dict[tuple[str, str], list[float]] = {}
    for number, given in by_pair.items():
        first, second = _policies(known[number])
        mean = sum(given) / len(given)
        points.setdefault((first, second), []).append(mean)
        points.setdefault((second, first), []).append(1 - mean)
    wins: dict[str, dict[str, Mean]] = {name: {} for name in names}
    for (mine, other), values in points.items():
        share = share_of(sum(values), len(values))
        assert share is not None
        wins[mine][other] = share
    return wins
