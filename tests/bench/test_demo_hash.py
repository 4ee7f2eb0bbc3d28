"""The aims of the demo, on the numbers of docs/demo.md."""

from __future__ import annotations

import pytest

from bench.demo_hash import aims


def report(**changes: float) -> dict:
    """Seed 0 of docs/demo.md."""
    gold = {"sft": 0.436, "best_of_n": 0.695, "dpo": 0.765, "ppo": 0.744} | changes
    wins = {"sft": 0.5, "best_of_n": 0.744, "dpo": 0.797, "ppo": 0.762}
    policies = {name: {"gold_mean": value, "win_rate": wins[name]} for name, value in gold.items()}
    return {"policies": policies, "reward_model": {"accuracy": 0.875, "bayes_accuracy": 0.920}}


def test_the_numbers_of_the_page_meet_all_aims():
    assert all(aims(report()).values())


@pytest.mark.parametrize(
    ("changes", "missed"),
    [({"best_of_n": 0.63}, "gold 0.20 above SFT"), ({"dpo": 0.74}, "gold 0.75 once")],
)
def test_a_lower_gold_misses_its_aim_alone(changes, missed):
    assert [name for name, met in aims(report(**changes)).items() if not met] == [missed]


def test_wins_and_the_reward_model_have_aims_of_their_own():
    numbers = report()
    numbers["policies"]["ppo"]["win_rate"] = 0.74
    numbers["reward_model"]["accuracy"] = 0.873
    assert [name for name, met in aims(numbers).items() if not met] == ["75 % wins", "0.95 of the Bayes accuracy"]
