"""The numbers of an audit: hand-computed answers and properties."""

from __future__ import annotations

import numpy as np
import pytest

from concordant.evaluation import audit

ROWS = np.arange(200)


def near(mean, value, within=0.05):
    return mean.interval.low - within <= value <= mean.interval.high + within


def test_best_of_four_shares_the_point_of_a_tie():
    scores = np.array([[3, 1, 1, 1], [2, 2, 0, 0], [1, 1, 1, 1], [0, 1, 0, 0]], float)
    assert audit.best_of_four(scores).value == (1 + 1 / 2 + 1 / 4 + 0) / 4
    assert audit.best_of_four(scores[:0]) is None


def test_best_of_four_of_a_constant_reward_is_guessing():
    assert audit.best_of_four(np.ones((40, 4))).value == 0.25


def test_groups_stand_in_the_given_order_and_those_without_pairs_are_left_out():
    groups = audit.by_group(np.array([1.0, 0.0, 0.5, 1.0]), ["b", "b", "a", "a"], ["a", "z", "b"])
    assert [(g.name, g.pairs, g.accuracy.value) for g in groups] == [("a", 2, 0.75), ("b", 2, 0.5)]


def test_a_straight_line_in_length_explains_everything_and_noise_nothing():
    x = np.log1p(ROWS.astype(float))
    assert audit.explained(x, 3 - 2 * x, ROWS, 200, 0).value == pytest.approx(1.0)
    noise = np.random.default_rng(0).normal(size=len(x))
    found = audit.explained(x, noise, ROWS, 200, 0)
    assert found.value < 0.05 and found.interval.low >= 0
    assert audit.explained(x, np.ones_like(x), ROWS, 200, 0) is None


def test_pearson_is_numpys_and_spearman_does_not_see_a_monotone_change():
    stream = np.random.default_rng(1)
    x = stream.normal(size=200)
    y = x + stream.normal(size=200)
    found = audit.correlation(x, y, ROWS, 500, 0)
    assert found.value == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert found.mean.interval.low < found.value < found.mean.interval.high
    rank = audit.ranks
    assert audit.correlation(rank(x), rank(np.exp(y)), ROWS, 10, 0).value == pytest.approx(
        audit.correlation(rank(x), rank(y), ROWS, 10, 0).value
    )


def test_equal_values_share_a_rank():
    assert audit.ranks(np.array([5.0, 1.0, 5.0, 9.0])).tolist() == [2.5, 1.0, 2.5, 4.0]


def test_answers_of_one_prompt_are_drawn_together():
    """Copies of every answer add no knowledge: the interval is as wide as without them."""
    stream = np.random.default_rng(2)
    x, y = stream.normal(size=(2, 60))
    once = audit.correlation(x, y, range(60), 2_000, 0).mean.interval
    copies = audit.correlation(
        np.repeat(x, 9), np.repeat(y, 9), np.repeat(range(60), 9).tolist(), 2_000, 0
    ).mean.interval
    assert (copies.low, copies.high) == pytest.approx((once.low, once.high))


def test_a_reward_that_is_as_sure_as_it_is_right_is_calibrated_and_a_surer_one_is_not():
    stream = np.random.default_rng(3)
    margin = stream.normal(0, 2, 4_000)
    label = np.where(stream.random(4_000) < 1 / (1 + np.exp(-margin)), 1.0, -1.0)
    zero = np.zeros(4_000)
    assert audit.calibration_error(label * margin, zero, 200, 0).value < 0.03
    sure = audit.calibration_error(4 * label * margin, zero, 200, 0)
    assert sure.value > 0.1 and sure.interval.low > 0.08
    assert audit.calibration_error(zero, zero, 200, 0).value == 0  # it is never sure, and right half of the time


def test_the_area_under_the_curve_by_hand():
    found = audit.separates(np.array([3.0, 1.0]), np.array([0.0, 2.0, 1.0]))
    assert found.value == pytest.approx((3 + 1.5) / 6)
    assert audit.separates(np.array([5.0, 6.0]), np.array([0.0, 1.0])).value == 1.0
    assert audit.separates(np.array([5.0]), np.array([0.0, 1.0])) is None


def test_disagreement_predicts_errors_where_members_err_alone():
    """Each member is right but for a tenth of the pairs of its own: there it stands against the two others."""
    chosen = np.ones((3, 300))
    for k in range(3):
        chosen[k, k * 30 : (k + 1) * 30] = -5.0
    found = audit.ensemble(chosen, np.zeros((3, 300)))
    assert [m.value for m in found.members] == [0.9] * 3
    assert found.predicts.value == 1.0 and found.quarters[0].accuracy.value == 1.0
    assert found.quarters[-1].name == "most" and found.quarters[-1].accuracy.value < 0.2


def test_equal_members_are_their_own_ensemble():
    stream = np.random.default_rng(4)
    chosen, rejected = stream.normal(size=(2, 1, 100))
    found = audit.ensemble(np.repeat(chosen, 3, 0), 7 * np.repeat(rejected, 3, 0) * [[1]])
    assert len({m.value for m in found.members}) == 1 and found.mean.value == found.members[0].value


def test_a_change_that_turns_every_pair_is_seen_and_none_is_none():
    before = np.array([[1.0, 0.0], [2.0, 1.0]])
    turned = audit.consistency(before, before[:, ::-1], 1.0, 100, 0)
    assert turned.same.value == 0.0 and turned.moved.value == 1.0
    assert audit.consistency(before, before, 1.0, 100, 0).moved.value == 0.0
    assert audit.consistency(before[:0], before[:0], 1.0, 100, 0).same is None


def test_the_shift_of_a_word_is_that_against_the_others_of_its_prompt():
    prompts = np.random.default_rng(5).normal(size=(8, 1))
    first, second = audit.word_shifts(prompts + [[0.0, 3.0]], 1.5, 200, 0)
    assert (first.value, second.value) == pytest.approx((-1.0, 1.0))
    assert [m.interval.low for m in audit.word_shifts(prompts + [[0.0, 0.0]], 1.5, 200, 0)] == [0.0, 0.0]
