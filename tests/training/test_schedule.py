from __future__ import annotations

import pytest

from concordant.config.train import TrainConfig
from concordant.training.schedule import SCHEDULES, learning_rate


def rates(schedule, total, warmup_fraction):
    config = TrainConfig(learning_rate=8.0, schedule=schedule, warmup_fraction=warmup_fraction)
    return [learning_rate(config, step, total) for step in range(total)]


def test_linear_without_warmup_loses_an_equal_part_every_step():
    assert rates("linear", 4, 0.0) == [8.0, 6.0, 4.0, 2.0]


def test_warmup_climbs_in_equal_parts_to_the_full_rate():
    # 8 steps, 2 of warm-up: 4, 8, then 8 · (6, 5, 4, 3, 2, 1)/7
    assert rates("linear", 8, 0.25) == pytest.approx([4, 8, *(8 * k / 7 for k in (6, 5, 4, 3, 2, 1))])


def test_cosine_is_half_way_in_the_middle():
    # (1 + cos(π·k/4)) / 2 for k = 0..3: 1, 0.8536, 0.5, 0.1464
    assert rates("cosine", 4, 0.0) == pytest.approx([8.0, 6.8284271, 4.0, 1.1715729])


def test_constant_stays():
    assert rates("constant", 4, 0.5) == [4.0, 8.0, 8.0, 8.0]


def test_warmup_in_steps_is_the_warmup_of_its_share():
    by_steps = TrainConfig(learning_rate=8.0, warmup_steps=2)
    assert [learning_rate(by_steps, step, 8) for step in range(8)] == rates("linear", 8, 0.25)


def test_the_default_fraction_is_nothing_beside_steps():
    """Of 200 steps the default fraction would be 10."""
    config = TrainConfig(learning_rate=8.0, warmup_steps=4)
    assert [learning_rate(config, step, 200) for step in range(4)] == [2.0, 4.0, 6.0, 8.0]
    assert learning_rate(config, 4, 200) < 8.0


def test_the_rate_falls_to_its_share():
    # from 8 to a quarter, 2, in four equal parts of 1.5; the end would be reached at step 4
    config = TrainConfig(learning_rate=8.0, warmup_fraction=0.0, min_rate_fraction=0.25)
    assert [learning_rate(config, step, 4) for step in range(4)] == [8.0, 6.5, 5.0, 3.5]
    config.schedule = "cosine"
    assert learning_rate(config, 2, 4) == pytest.approx(5.0)  # half-way between 8 and 2


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_without_a_least_rate_the_bits_are_those_of_the_plain_formula(schedule):
    config = TrainConfig(learning_rate=3.7e-4, schedule=schedule, warmup_fraction=0.0)
    for step in range(997):
        assert learning_rate(config, step, 997) == 3.7e-4 * SCHEDULES[schedule](step / 997)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.3, 1.0])
@pytest.mark.parametrize("total", [1, 2, 7, 100])
def test_no_step_is_spent_on_nothing_and_the_peak_is_the_rate_asked_for(schedule, warmup, total):
    series = rates(schedule, total, warmup)
    assert min(series) > 0
    assert max(series) == 8.0
