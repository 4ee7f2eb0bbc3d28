from __future__ import annotations

import math

import numpy as np
import pytest

from concordant.core.errors import UserError
from concordant.evaluation.reward_summary import summarise_reward_model


def test_by_hand() -> None:
    found = summarise_reward_model([2.0, 0.0, 1.0, 0.5], [1.0, 1.0, 1.0, 0.0], [5, 5, 3, 1], [3, 5, 5, 4])
    assert found.accuracy.value == (1 + 0 + 0.5 + 1) / 4
    assert {g.name: (g.pairs, g.accuracy.value) for g in found.by_length} == {
        "longer": (1, 1.0),
        "same": (1, 0.0),
        "shorter": (2, 0.75),
    }
    assert found.longer_accuracy.value == (1 + 0.5 + 0 + 0) / 4
    assert found.bayes_accuracy is None
    # -log σ of 1, -1, 0 and 0.5
    assert found.log_loss.value == pytest.approx((0.3133 + 1.3133 + 0.6931 + 0.4741) / 4, abs=1e-4)


def test_seed_numbers_are_one_pair() -> None:
    found = summarise_reward_model([0.73], [0.21], [1], [1])
    assert found.bins[0].predicted == pytest.approx(0.627, abs=5e-4)
    assert found.log_loss.value == pytest.approx(0.467, abs=5e-4)


def test_calibration_by_hand() -> None:
    # confidence 0.75 four times, right three times: perfectly calibrated, whichever side is called chosen
    gap = math.log(3)
    good = summarise_reward_model([gap, gap, gap, -gap], [0.0] * 4, [1] * 4, [1] * 4)
    assert len(good.bins) == 1 and good.bins[0].pairs == 4
    assert good.calibration_error == pytest.approx(0, abs=1e-9)
    # as sure, and always right: 0.25 too modest; as sure and always wrong: 0.75 too sure
    assert summarise_reward_model([gap] * 4, [0.0] * 4, [1] * 4, [1] * 4).calibration_error == pytest.approx(0.25)
    assert summarise_reward_model([-gap] * 4, [0.0] * 4, [1] * 4, [1] * 4).calibration_error == pytest.approx(0.75)


def test_labels_drawn_from_the_scores_are_calibrated() -> None:
    stream = np.random.default_rng(0)
    gap = stream.normal(size=20_000) * 2
    p = 1 / (1 + np.exp(-gap))
    signed = np.where(stream.random(len(gap)) < p, gap, -gap)
    probability = np.where(signed == gap, p, 1 - p)
    zeros = [0.0] * len(gap)
    found = summarise_reward_model(list(signed), zeros, [1] * len(gap), [1] * len(gap), list(probability), bootstrap=50)
    assert found.calibration_error < 0.01
    assert sum(b.pairs for b in found.bins) == len(gap)
    # the scores are the label's true model: nobody can do better
    assert found.bayes_accuracy is not None
    assert found.accuracy.value == pytest.approx(found.bayes_accuracy.value, abs=0.01)
    sharper = summarise_reward_model(list(3 * signed), zeros, [1] * len(gap), [1] * len(gap), bootstrap=50)
    assert sharper.calibration_error > 0.05
    assert sharper.accuracy == found.accuracy


def test_bayes_accuracy_takes_the_likelier_side() -> None:
    found = summarise_reward_model([1.0, 1.0], [0.0, 0.0], [1, 1], [1, 1], [0.9, 0.2])
    assert found.bayes_accuracy is not None and found.bayes_accuracy.value == pytest.approx(0.85)


def test_extreme_scores_stay_finite() -> None:
    found = summarise_reward_model([1e4, -1e4], [-1e4, 1e4], [1, 2], [2, 1])
    assert found.log_loss.value == pytest.approx(1e4) and found.bins[-1].high == 1.0
    assert found.accuracy.value == 0.5


def test_wrong_use() -> None:
    with pytest.raises(UserError, match="no held-out pair"):
        summarise_reward_model([], [], [], [])
    with pytest.raises(ValueError, match="different numbers of pairs"):
        summarise_reward_model([1.0], [0.0], [1], [1], [0.5, 0.5])
    with pytest.raises(ValueError, match="not finite"):
        summarise_reward_model([math.nan], [0.0], [1], [1])


def test_the_range_of_scores_is_that_of_all_answers() -> None:
    """Scores 3, 3 of chosen and 1, 1 of rejected answers: mean 2, deviation 1."""
    found = summarise_reward_model([3.0, 3.0], [1.0, 1.0], [1, 1], [1, 1])
    assert (found.score_mean, found.score_std) == (2.0, 1.0)


def test_a_bin_counts_by_its_pairs() -> None:
    """Nine pairs with confidence 0.75, all right, and one with 0.95, wrong: 0.9 · 0.25 + 0.1 · 0.95."""
    gaps = [math.log(3)] * 9 + [-math.log(19)]
    found = summarise_reward_model(gaps, [0.0] * 10, [1] * 10, [1] * 10)
    assert [b.pairs for b in found.bins] == [9, 1]
    assert found.calibration_error == pytest.approx(0.9 * 0.25 + 0.1 * 0.95)


def test_a_confidence_on_an_edge_belongs_to_the_bin_above() -> None:
    """Two bins, [0.5, 0.75) and [0.75, 1]: a sigmoid of ln 3 is exactly 0.75 or a bit more, of 0 exactly a half."""
    gap = next(g for g in np.nextafter(math.log(3), [0.0, 9.0]) if 1 / (1 + np.exp(-g)) == 0.75)
    found = summarise_reward_model([float(gap), 0.0], [0.0, 0.0], [1, 1], [1, 1], bins=2)
    assert [(b.low, b.high, b.pairs) for b in found.bins] == [(0.5, 0.75, 1), (0.75, 1.0, 1)]
