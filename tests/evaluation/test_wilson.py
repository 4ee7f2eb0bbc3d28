from __future__ import annotations

import numpy as np
import pytest

from concordant.evaluation.wilson import share_of


def test_the_interval_of_eight_in_ten_is_the_known_one():
    """0.490 to 0.943, as in Newcombe 1998 and in every table of Wilson's interval."""
    mean = share_of(8, 10)
    assert mean.value == 0.8 and mean.is_share and mean.count == 10
    assert (mean.interval.low, mean.interval.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)


def test_none_and_all_have_a_width_and_an_exact_end():
    none, every = share_of(0, 20).interval, share_of(20, 20).interval
    assert none.low == 0.0 and every.high == 1.0
    assert none.high == pytest.approx(1 - every.low) and 0.1 < none.high < 0.2


def test_it_holds_the_true_share_about_95_times_in_100():
    stream = np.random.default_rng(0)
    for true in (0.5, 0.9):
        draws = stream.binomial(60, true, 2_000)
        inside = [share_of(int(n), 60).interval for n in draws]
        assert 0.92 < np.mean([i.low <= true <= i.high for i in inside]) < 0.98


def test_without_a_case_nothing_is_known():
    assert share_of(0, 0) is None
