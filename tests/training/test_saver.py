"""When a checkpoint is due."""

from __future__ import annotations

import pytest

from concordant.config.train import TrainConfig
from concordant.training import checkpoint, saver
from concordant.training.saver import Saver


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

    monkeypatch.setattr(saver.time, "monotonic", lambda: Clock.now)
    return Clock


def test_the_clock_asks_every_minute(tmp_path, clock):
    keeper = Saver(tmp_path, TrainConfig())
    clock.now += 59
    assert not keeper.due(1)
    clock.now += 1
    assert keeper.due(2)
    keeper.save(2, {}, {"step": 2}, {})
    assert not keeper.due(3)


@pytest.mark.parametrize("fails", [False, True])
def test_a_slow_save_is_asked_for_less_often_so_that_it_costs_a_twenty_fifth(tmp_path, clock, monkeypatch, fails):
    def slow(*arguments):
        clock.now += 10
        if fails:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save", slow)
    keeper = Saver(tmp_path, TrainConfig())
    try:
        keeper.save(1, {}, {}, {})
    except OSError:
        assert fails
    clock.now += 249
    assert not keeper.due(2)
    clock.now += 1
    assert keeper.due(2)


def test_steps_and_clock_can_be_used_alone(tmp_path, clock):
    by_steps = Saver(tmp_path, TrainConfig(save_every=3, save_minutes=0))
    neither = Saver(tmp_path, TrainConfig(save_minutes=0))
    clock.now += 1e6
    assert [step for step in range(1, 8) if by_steps.due(step)] == [3, 6]
    assert not neither.is_on and not any(map(neither.due, range(9)))
