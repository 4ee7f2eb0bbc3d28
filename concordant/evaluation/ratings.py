"""Bradley–Terry ratings: one number for each policy, which says how likely it wins against every other policy.

    P(i wins against j) = 1 / (1 + 10^((r_j - r_i) / 400))

So a lead of 100 points wins 64 % of the comparisons, and one of 400 points wins 91 %.  Bradley & Terry 1952; the
scale is that of Elo's ratings.

K policies, G prompts, S sets of comparisons, such as bootstrap resamples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from concordant.evaluation.bootstrap import expanded, mean_of, percentile_interval, resampled_means
from concordant.evaluation.records import LEVEL, Interval, Mean, Rating, Ratings

POINTS_PER_NAT = 400 / math.log(10)  # rating points in a difference of 1 of the log-odds
FEWEST_RATED = 3  # policies; of two, the win rate says the same
_PRIOR = 0.5  # wins that each policy of a pair has before the first comparison, so that no rating is infinite
_LONGEST_STEP = 2.0  # nats that one Newton step may change a rating; from far away a full step can overshoot
_CLOSE = 1e-10  # nats; a step shorter than this ends the search
_MOST_STEPS = 200


def bradley_terry_ratings(wins_KK: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ratings in points with mean 0, (…, K), from ``wins_KK``, (…, K, K): how often row i won against column j.

    Ties count half for each side, and the diagonal is not read. The ratings maximise the likelihood of the wins and of
    one tie more for each pair of policies. This tie keeps the rating of a policy that always wins finite. Leading
    dimensions are sets of comparisons, each with ratings of its own. Raises ValueError for other shapes and for
    negative or infinite counts.
    """
    wins = np.asarray(wins_KK, dtype=np.float64)
    if wins.ndim < 2 or wins.shape[-1] != wins.shape[-2]:
        raise ValueError(f"wins must be a square matrix of policies; given the shape {wins.shape}")
    count = wins.shape[-1]
    others = ~np.eye(count, dtype=bool)
    wins = np.where(others, wins, 0.0)
    if not (np.isfinite(wins).all() and (wins >= 0).all()):
        raise ValueError("wins must be numbers of comparisons, finite and not negative")
    wins = (wins + _PRIOR * others).reshape(-1, count, count)
    games = wins + wins.swapaxes(1, 2)
    nats_SK = np.zeros(wins.shape[:2])
    for _ in range(_MOST_STEPS):
        p = 1 / (1 + np.exp(nats_SK[:, None, :] - nats_SK[:, :, None]))  # (S, i, j): P(i wins against j)
        gradient_SK = (wins - games * p).sum(axis=2)
        information = games * p * (1 - p)
        # The ratings are known up to a constant. A matrix of ones makes the system solvable and the mean stay 0.
        curvature = -information + np.eye(count) * information.sum(axis=2)[:, :, None] + 1.0
        step_SK = np.linalg.solve(curvature, gradient_SK[:, :, None])[:, :, 0]
        longest_S = np.abs(step_SK).max(axis=1)
        nats_SK += step_SK * np.minimum(1.0, _LONGEST_STEP / np.maximum(longest_S, _CLOSE))[:, None]
        if longest_S.max() < _CLOSE:
            break
    return (nats_SK * POINTS_PER_NAT).reshape(np.shape(wins_KK)[:-1])


def rate(
    points: Mapping[tuple[str, str], NDArray[np.float64]], names: Sequence[str], anchor: str, bootstrap: int, seed: int
) -> Ratings:
    """The ratings of the policies ``names`` and their win matrix, with intervals of 95 %.

    ``points`` has for every pair of policies, in the order of ``names``, the points of its first policy for each of the
    same G prompts: 1 for a win, 0.5 for a tie. The rating of ``anchor`` is 0. The intervals come from resamples of
    prompts, as those of all other numbers of the report, and are expanded, so that they hold for few prompts too.
    """
    pairs = list(combinations(names, 2))
    points_GM = np.stack([points[pair] for pair in pairs], axis=1)
    prompts, at = len(points_GM), list(names).index(anchor)

    def from_anchor(means_SM: NDArray[np.float64]) -> NDArray[np.float64]:
        rated = bradley_terry_ratings(_matrices(prompts * means_SM, prompts, len(names)))
        return rated - rated[..., at : at + 1]

    value_K = from_anchor(points_GM.mean(axis=0)[None])[0]
    intervals: list[Interval | None] = [None] * len(names)
    if bootstrap > 0:
        rated_SK = from_anchor(resampled_means(points_GM, bootstrap, seed))
        intervals = [percentile_interval(rated_SK[:, k], expanded(LEVEL, prompts)) for k in range(len(names))]
    wins: dict[str, dict[str, Mean]] = {name: {} for name in names}
    for pair, points_G in zip(pairs, points_GM.T, strict=True):
        for (mine, other), x_G in ((pair, points_G), (pair[::-1], 1 - points_G)):
            wins[mine][other] = mean_of(x_G, bootstrap, seed, is_share=True)
    rated = {
        name: Rating(float(value), interval) for name, value, interval in zip(names, value_K, intervals, strict=True)
    }
    return Ratings(anchor=anchor, ratings=rated, wins=wins)


def _matrices(won_SM: NDArray[np.float64], games: int, count: int) -> NDArray[np.float64]:
    """(S, K, K) wins from the wins of the first policy of each pair, (S, M), of ``games`` comparisons a pair."""
    rows, columns = np.triu_indices(count, k=1)
    wins = np.zeros((len(won_SM), count, count))
    wins[:, rows, columns], wins[:, columns, rows] = won_SM, games - won_SM
    return wins
