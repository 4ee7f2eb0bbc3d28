from __future__ import annotations

import numpy as np
import pytest

from concordant.evaluation import bootstrap
from concordant.evaluation.bootstrap import expanded, mean_interval, mean_of, ratio_of, resampled_means
from concordant.evaluation.records import Interval


def interval(x: np.ndarray, resamples: int = 1000, seed: int = 0) -> Interval:
    found = mean_interval(x, resamples, seed)
    assert found is not None
    return found


def test_seeded() -> None:
    x = np.random.default_rng(0).normal(size=50)
    assert interval(x) == interval(x)
    assert interval(x) != interval(x, seed=1)


def test_covers_the_true_mean_as_often_as_it_says() -> None:
    stream = np.random.default_rng(0)
    hits = 0
    for trial in range(300):
        x = (stream.random(100) < 0.7).astype(float)
        found = interval(x, resamples=300, seed=trial)
        hits += found.low <= 0.7 <= found.high
    assert 0.90 <= hits / 300 <= 0.98  # 95 % asked for; a third of a thousand trials, a discrete mean


def test_width_is_that_of_the_normal_approximation() -> None:
    x = np.random.default_rng(1).normal(size=400)
    found = interval(x, resamples=4000)
    assert found.high - found.low == pytest.approx(2 * 1.96 * x.std() / 20, rel=0.05)
    assert found.low < x.mean() < found.high


def test_swapping_wins_and_losses_mirrors_the_interval() -> None:
    points = np.array([1.0, 0.5, 0.0, 1.0, 1.0, 0.5, 1.0])
    one, other = interval(points), interval(1 - points)
    assert (other.low, other.high) == pytest.approx((1 - one.high, 1 - one.low))


def test_all_ties_have_no_width() -> None:
    assert interval(np.full(33, 0.5)) == Interval(0.5, 0.5)


def test_columns_are_resampled_together() -> None:
    x = np.random.default_rng(2).normal(size=40)
    means = resampled_means(np.stack([x, x + 3], axis=1), 100, 0)
    assert np.allclose(means[:, 1] - means[:, 0], 3)
    assert np.array_equal(means[:, 0], resampled_means(x[:, None], 100, 0)[:, 0])


def test_drawing_in_pieces_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(3).normal(size=(30, 1))
    whole = resampled_means(x, 50, 0)
    monkeypatch.setattr(bootstrap, "DRAWS_AT_ONCE", 70)
    assert np.array_equal(whole, resampled_means(x, 50, 0))


def test_no_resamples_no_interval() -> None:
    assert mean_interval(np.ones(3), 0, 0) is None


def test_few_values_need_a_wider_interval() -> None:
    # Student's t of 9 degrees of freedom at 97.5 % is 2.262, so 2.262 · √(10/9) = 2.385, where the normal has 0.9915
    assert expanded(0.95, 10) == pytest.approx(0.983, abs=5e-4)
    assert expanded(0.95, 10**6) == pytest.approx(0.95, abs=1e-5)
    assert expanded(0.95, 1) == 1.0


def test_a_mean_has_its_standard_error() -> None:
    found = mean_of(np.array([1.0, 2.0, 3.0, 6.0]), 100, 0)
    # the mean is 3; the squares 4 + 1 + 0 + 9 over 3; its root over √4
    assert (found.value, found.error, found.count) == (3.0, pytest.approx((14 / 3) ** 0.5 / 2), 4)
    assert mean_of(np.array([2.0]), 0, 0).error is None
    share = mean_of(np.array([1.0, 1.0, 1.0]), 0, 0, is_share=True)
    assert share.error is not None and share.error > 0.1, "three of three do not prove that all are right"


def test_rounding_is_no_deviation() -> None:
    found = mean_of(np.full(30, 0.1 + 0.2), 100, 0)
    assert found.error == 0 and found.interval == Interval(found.value, found.value)


def test_an_infinite_value_leaves_error_and_interval_unknown() -> None:
    found = mean_of(np.array([1.0, np.inf]), 100, 0)
    assert found.value == np.inf and found.error is None and found.interval is None


def test_a_ratio_of_sums_by_hand() -> None:
    nats, tokens = np.array([5.0, 11.0]), np.array([2.0, 6.0])
    found = ratio_of(nats, tokens, 400, 0)
    # 16/8; what 2 leaves unexplained is 1 and -1, of deviation √2; √2 · √2 / 8
    assert (found.value, found.error) == (2.0, pytest.approx(0.25))
    assert found.interval is not None  # of two texts: only the first, both, or only the second
    assert (found.interval.low, found.interval.high) == (pytest.approx(11 / 6), pytest.approx(5 / 2))
