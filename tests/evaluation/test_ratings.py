"""Bradley–Terry ratings: worked numbers, signs, invariances, and how often the intervals hold the truth."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest

from concordant.evaluation.ratings import bradley_terry_ratings, rate


def wins(rows):
    return np.array(rows, float)


def test_two_policies_by_hand():
    # 14.5 wins of 19 and the tie of the prior: 15 against 5, odds of 3, and 400·log10(3) = 190.85 points between them
    rating_K = bradley_terry_ratings(wins([[0, 14.5], [4.5, 0]]))
    assert rating_K == pytest.approx([95.4242, -95.4242], abs=1e-3)


def test_three_policies_whose_wins_follow_the_model():
    """Odds of 2 between neighbours, 4 between the ends, the tie of the prior taken away: 120.4 and 240.8 points."""
    a_b, a_c = 60 * 2 / 3, 60 * 4 / 5
    given = [[0, a_b - 0.5, a_c - 0.5], [20 - 0.5, 0, a_b - 0.5], [12 - 0.5, 20 - 0.5, 0]]
    assert bradley_terry_ratings(wins(given)) == pytest.approx([120.412, 0, -120.412], abs=1e-3)


def test_a_win_more_raises_the_winner_and_lowers_the_loser():
    before = bradley_terry_ratings(wins([[0, 5, 5], [5, 0, 5], [5, 5, 0]]))
    after = bradley_terry_ratings(wins([[0, 6, 5], [5, 0, 5], [5, 5, 0]]))
    assert before == pytest.approx([0, 0, 0], abs=1e-9)
    assert after[0] > 0 > after[1] and after[0] > after[2] > after[1]


def test_the_order_of_policies_changes_nothing_but_the_order():
    given = np.random.default_rng(3).integers(0, 30, size=(5, 5)).astype(float)
    order = [3, 0, 4, 1, 2]
    assert bradley_terry_ratings(given[np.ix_(order, order)]) == pytest.approx(bradley_terry_ratings(given)[order])


def test_a_swap_of_wins_and_losses_turns_the_ratings_round():
    given = np.random.default_rng(4).integers(0, 30, size=(4, 4)).astype(float)
    assert bradley_terry_ratings(given.T) == pytest.approx(-bradley_terry_ratings(given))


def test_sets_of_comparisons_are_rated_each_for_itself_and_the_diagonal_is_not_read():
    given = np.random.default_rng(5).integers(0, 30, size=(7, 4, 4)).astype(float)
    together = bradley_terry_ratings(given)
    given[:, range(4), range(4)] = 99
    alone = np.stack([bradley_terry_ratings(one) for one in given])
    assert together.shape == (7, 4) and together == pytest.approx(alone)


def test_ratings_are_the_maximum_of_the_likelihood():
    given = np.random.default_rng(6).integers(1, 30, size=(4, 4)).astype(float)
    best = bradley_terry_ratings(given)

    def likelihood(rating_K):
        lead = (rating_K[:, None] - rating_K[None]) * math.log(10) / 400
        return -((given + 0.5) * np.logaddexp(0, -lead))[~np.eye(4, dtype=bool)].sum()

    for k in range(4):
        for change in (-1, 1):
            assert likelihood(best) > likelihood(best + change * np.eye(4)[k])


@pytest.mark.parametrize("prompts", [1, 400, 1_000_000])
def test_a_policy_that_always_wins_has_a_finite_rating(prompts):
    given = np.zeros((3, 3))
    given[0, 1] = given[0, 2] = given[1, 2] = prompts
    found = bradley_terry_ratings(given)
    assert np.isfinite(found).all() and found[0] > found[1] > found[2]
    lead = (found[0] - found[1]) * math.log(10) / 400
    gradient = 2 * (prompts + 0.5) - (prompts + 1) / (1 + math.exp(-lead))
    gradient -= (prompts + 1) / (1 + math.exp((found[2] - found[0]) * math.log(10) / 400))
    assert abs(gradient) < 1e-6 * (prompts + 1)  # the maximum was found, and not only approached


@pytest.mark.parametrize("given", [[[0, 1, 2], [1, 0, 2]], [[0, -1], [1, 0]], [[0, math.inf], [1, 0]], [1, 2]])
def test_what_is_no_win_matrix_is_refused(given):
    with pytest.raises(ValueError, match="wins must be"):
        bradley_terry_ratings(np.array(given, float))


def arena(strengths, prompts, stream):
    """Points of every pair of policies for each prompt, drawn from the model."""
    names = [str(k) for k in range(len(strengths))]
    points = {}
    for i, j in combinations(range(len(names)), 2):
        chance = 1 / (1 + 10 ** ((strengths[j] - strengths[i]) / 400))
        points[names[i], names[j]] = (stream.random(prompts) < chance).astype(float)
    return points, names


def test_the_anchor_has_nothing_to_be_unsure_of_and_the_matrix_is_read_from_both_sides():
    points, names = arena([0, 100, 200], 200, np.random.default_rng(0))
    found = rate(points, names, "1", 200, 0)
    anchor = found.ratings["1"]
    assert anchor.value == 0 and (anchor.interval.low, anchor.interval.high) == (0, 0)
    assert found.ranking() == ["2", "1", "0"]
    assert found.wins["0"]["2"].value == pytest.approx(points["0", "2"].mean())
    assert found.wins["2"]["0"].value == pytest.approx(1 - points["0", "2"].mean())
    assert "0" not in found.wins["0"]


def test_without_resamples_there_are_no_intervals():
    points, names = arena([0, 100, 200], 20, np.random.default_rng(0))
    assert all(rating.interval is None for rating in rate(points, names, "0", 0, 0).ratings.values())


@pytest.mark.parametrize(("strengths", "prompts"), [([0, 60, 120], 200), ([0, 0, 0, 0], 60), ([0, 200, 350], 40)])
def test_intervals_hold_the_truth_about_as_often_as_they_say(strengths, prompts):
    """120 arenas of known strengths: 95 % would be 228 of 240; four standard errors below are 214, or 89 %."""
    stream, inside = np.random.default_rng(1), []
    for _ in range(120):
        points, names = arena(strengths, prompts, stream)
        ratings = rate(points, names, "0", 300, 0).ratings
        for name, truth in zip(names[1:3], strengths[1:3], strict=True):
            inside.append(ratings[name].interval.low <= truth <= ratings[name].interval.high)
    assert 0.89 <= np.mean(inside) <= 0.995
