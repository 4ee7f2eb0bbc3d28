"""Settings that follow method, model and data: what the user gives stays, and the rest moves the right way."""

from __future__ import annotations

from dataclasses import replace

import pytest

from concordant.config.names import METHODS
from concordant.config.train import TrainConfig
from concordant.training.defaults import Start, rate_of, settle, steps_needed


def start(**changes) -> Start:
    return replace(Start(method="sft", examples=300, weights=10**9), **changes)


def steps(examples: int, **changes) -> int:
    made = start(examples=examples, **changes)
    train = settle(TrainConfig(), made)
    return -(-int(examples * train.epochs) // train.batch_size)


def test_what_was_given_stays() -> None:
    given = TrainConfig(batch_size=3, epochs=0.5, learning_rate=7e-5, evaluate_every=0)
    assert settle(given, start()) == given
    assert settle(TrainConfig(max_steps=16), start()).evaluate_every == 2, "an eighth of the steps that were given"


@pytest.mark.parametrize("method", METHODS)
def test_no_step_learns_from_a_given_example_twice(method: str) -> None:
    """PPO and distillation answer a prompt anew each time, so there a prompt may come again within a step."""
    made = settle(TrainConfig(batch_size=29, epochs=2.0), start(method=method, examples=3))
    assert made.batch_size == (29 if method in ("ppo", "distill") else 3)


@pytest.mark.parametrize("method", METHODS)
def test_larger_models_learn_at_lower_rates(method: str) -> None:
    rates = [rate_of(start(method=method, weights=10**n)) for n in range(6, 11)]
    assert rates == sorted(rates, reverse=True) and len(set(rates)) == len(rates)


def test_rates_of_published_recipes_within_a_factor_of_two() -> None:
    """7 B: InstructGPT's and Zephyr's full fine-tuning, and LoRA at ten times as much."""
    seven = start(weights=7 * 10**9)
    for made, published in (
        (rate_of(seven), 1e-5),
        (rate_of(replace(seven, method="dpo")), 5e-7),
        (rate_of(replace(seven, method="ppo")), 1e-6),
        (rate_of(replace(seven, has_adapters=True)), 1e-4),
    ):
        assert published / 2 <= made <= 2 * published


def test_adapters_and_random_weights_take_more_an_encoder_less() -> None:
    base = rate_of(start())
    assert rate_of(start(has_adapters=True)) > base < rate_of(start(is_random=True))
    assert rate_of(start(is_encoder=True)) < base
    assert rate_of(start(weights=1_000, is_random=True)) <= 5e-3, "there is a highest rate"
    assert rate_of(start(optimizer="adafactor")) == pytest.approx(10 * base)
    assert rate_of(start(optimizer="muon")) == base


def test_a_small_set_gets_several_passes_and_a_large_one_a_single_pass() -> None:
    few, many = (settle(TrainConfig(), start(method="reward", examples=n)) for n in (225, 200_000))
    assert 1 < few.epochs <= 5 and few.batch_size == 8
    assert many.epochs == 1 and many.batch_size == 32


@pytest.mark.parametrize("examples", [1, 3, 7, 30, 225, 2_250, 40_000])
@pytest.mark.parametrize("is_random", [False, True])
def test_no_batch_is_larger_than_the_data_and_more_data_is_never_fewer_steps(examples: int, is_random: bool) -> None:
    train = settle(TrainConfig(), start(examples=examples, is_random=is_random))
    assert 1 <= train.batch_size <= examples and train.evaluate_every >= 1
    needed = steps_needed(start(is_random=is_random))
    assert steps(40_000, is_random=is_random) >= needed
    assert steps(225) >= needed / 3 or is_random
