"""The rules about settings and quantities: a sick history that each names first, and the healthy neighbour."""

import pytest

from concordant.doctor.history import Beside
from concordant.doctor.monitor import Monitor
from tests.doctor.histories import CONFIG, falling, first, found, rows

USUAL = {"steps": 100, "steps_needed": 150, "usual_rate": 1e-3, "examples": 1000, "weights": 1e6}


def beside(**changes):
    """What stands beside the metrics: numbers of the start, and under ``result_`` those of the end."""
    results = {name.removeprefix("result_"): value for name, value in changes.items() if name.startswith("result_")}
    start = USUAL | {name: value for name, value in changes.items() if not name.startswith("result_")}
    return Beside(results=lambda: results, start=lambda: start)


RISES = {"objective__score": falling(0.0, 3.0)}
# rule, stage, what makes it sick (changes, settings, beside), and what makes its neighbour well
QUANTITIES = [
    ("too_few_steps", "dpo", ({}, {}, {"steps": 5}), ({}, {}, {"steps": 48})),
    ("warmup_too_long", "sft", ({}, {"train": {"warmup_steps": 90}}, {}), ({}, {"train": {"warmup_steps": 10}}, {})),
    (
        "weight_decay_too_high",
        "sft",
        ({}, {"train": {"weight_decay": 10.0, "learning_rate": 1e-3}}, {}),
        ({}, {"train": {"weight_decay": 0.1, "learning_rate": 1e-3}}, {}),
    ),
    ("kl_penalty_too_strong", "ppo", ({"kl_coefficient": 5.0}, {}, {}), ({"kl_coefficient": 0.2}, {}, {})),
    (
        "untrained_start",
        "ppo",
        ({"objective__entropy_per_token": 6.0}, {}, {}),
        ({"objective__entropy_per_token": falling(3.0, 2.0)}, {}, {}),
    ),
    (
        "kl_penalty_too_strong",
        "ppo",
        ({"kl_coefficient": 5.0, "objective__score_std": 100.0}, {"reward_normalize": "start"}, {}),
        ({"kl_coefficient": 5.0, "objective__score_std": 20.0}, {}, {}),
    ),
    (
        "reward_scale",
        "ppo",
        ({"objective__score_std": 1e4}, {}, {}),
        ({"objective__score_std": 1e4}, {"reward_normalize": "start"}, {}),
    ),
    (
        "temperature_extreme",
        "ppo",
        ({}, {"sampling": {"temperature": 0.1}}, {}),
        ({}, {"sampling": {"temperature": 0.7}}, {}),
    ),
    (
        "temperature_extreme",
        "ppo",
        ({}, {"sampling": {"temperature": 2.0}}, {}),
        ({}, {"sampling": {"temperature": 1.2}}, {}),
    ),
    ("beta_unusual", "dpo", ({}, {"beta": 10.0}, {}), ({}, {"beta": 10.0, "loss": "ipo"}, {})),
    ("smoothing_too_high", "reward", ({}, {"label_smoothing": 0.5}, {}), ({}, {"label_smoothing": 0.2}, {})),
    (
        "rate_unusual",
        "reward",
        ({}, {"train": {"learning_rate": 0.1}}, {}),
        ({}, {"train": {"learning_rate": 3e-3}}, {}),
    ),
    (
        "few_prompts",
        "ppo",
        ({}, {"train": {"batch_size": 8}}, {"examples": 3}),
        ({}, {"train": {"batch_size": 8}}, {"examples": 300}),
    ),
    (
        "heldout_differs",
        "sft",
        ({"eval__loss": lambda i, n: 6.0 if i % 12 == 11 else None}, {}, {}),
        ({"eval__loss": lambda i, n: 3.9 if i % 12 == 11 else None}, {}, {}),
    ),
    (
        "heldout_near_chance",
        "reward",
        ({"eval__accuracy": 0.97}, {}, {"result_accuracy": 0.44}),
        ({"eval__accuracy": 0.97}, {}, {"result_accuracy": 0.9}),
    ),
    ("too_easy", "sft", ({"loss": lambda i, n: 4 * 0.8**i}, {}, {}), ({"loss": falling(4.0, 0.5)}, {}, {})),
    (
        "reference_foreign",
        "dpo",
        ({"rewards__chosen": -9.0, "doctor__data__learnt_tokens": 30.0}, {"reference": "other"}, {}),
        ({"rewards__chosen": -0.5, "doctor__data__learnt_tokens": 30.0}, {"reference": "other"}, {}),
    ),
    (
        "reference_foreign",
        "ppo",
        ({"objective__kl": falling(60.0, 62.0)}, {"reference": "other"}, {}),
        ({"objective__kl": falling(3.0, 5.0)}, {"reference": "other"}, {}),
    ),
    (
        "policy_far",
        "dpo",
        ({"eval__kl": 90.0, "eval__length": 30.0}, {}, {}),
        ({"eval__kl": 90.0, "eval__length": 300.0}, {}, {}),
    ),
    (
        "answers_change",
        "dpo",
        ({"eval__length": falling(40.0, 10.0)}, {}, {}),
        ({"eval__length": falling(40.0, 30.0)}, {}, {}),
    ),
    (
        "reward_random",
        "ppo",
        ({"doctor__reward__same_answer": 0.8}, {}, {}),
        ({"doctor__reward__same_answer": 0.0}, {}, {}),
    ),
    (
        "reward_ignores_answer",
        "ppo",
        ({"doctor__reward__group_std": 0.01}, {}, {}),
        ({"doctor__reward__group_std": 0.5}, {}, {}),
    ),
    (
        "reward_does_not_rise",
        "ppo",
        ({"objective__score": 0.0}, {}, {}),
        ({"objective__score": 0.0, "objective__kl": 0.5}, {}, {}),
    ),
    (
        "answers_empty",
        "ppo",
        ({"doctor__response__empty": falling(0.0, 0.9)}, {}, {}),
        ({"doctor__response__empty": 0.05}, {}, {}),
    ),
    (
        "answers_alike",
        "ppo",
        ({"doctor__response__distinct": falling(1.0, 0.1)}, {}, {}),
        ({"doctor__response__distinct": 0.4}, {}, {}),
    ),
    (
        "copying_hacking",
        "ppo",
        ({"doctor__response__copies": falling(0.0, 0.6)}, {}, {}),
        ({"doctor__response__copies": 0.3}, {}, {}),
    ),
    (
        "shortness_hacking",
        "ppo",
        ({"response__length": falling(40.0, 12.0), **RISES}, {}, {}),
        ({"response__length": falling(40.0, 30.0), **RISES}, {}, {}),
    ),
    ("centering_too_strong", "reward", ({}, {"centering": 50.0}, {}), ({}, {"centering": 0.01}, {})),
    (
        "lora_scale",
        "sft",
        ({}, {"model": {"lora": {"rank": 4, "alpha": 2048.0}}}, {}),
        ({}, {"model": {"lora": {"rank": 1, "alpha": 32.0}}}, {}),
    ),
    (
        "lora_too_small",
        "sft",
        ({}, {"model": {"lora": {"rank": 1, "alpha": 2.0, "target_modules": ["q_proj"]}}}, {}),
        ({}, {"model": {"lora": {"rank": 8, "alpha": 16.0, "target_modules": ["q_proj"]}}}, {}),
    ),
    ("beta_unusual", "dpo", ({}, {"loss": "ipo", "beta": 0.005}, {}), ({}, {"loss": "ipo", "beta": 0.1}, {})),
    (
        "one_reward_rules",
        "ppo",
        ({}, {"missing_eos_penalty": 60.0, "reward_normalize": "start"}, {}),
        ({}, {"missing_eos_penalty": 1.0, "reward_normalize": "start"}, {}),
    ),
    (
        "one_reward_rules",
        "ppo",
        ({"doctor__reward__agreement": 0.0}, {"reward": ["a", "b"]}, {}),
        ({"doctor__reward__agreement": lambda i, n: 0.1 * (i % 2)}, {"reward": ["a", "b"]}, {}),
    ),
    (
        "reward_abstains",
        "ppo",
        ({"reward__abstained": 30.0, "reward__errors": 30.0}, {"train": {"batch_size": 8}, "sampling": {"n": 4}}, {}),
        ({"reward__abstained": 3.0, "reward__errors": 3.0}, {"train": {"batch_size": 8}, "sampling": {"n": 4}}, {}),
    ),
    (
        "start_without_entropy",
        "ppo",
        ({"objective__entropy_per_token": 0.02}, {}, {}),
        ({"objective__entropy_per_token": 0.02}, {"sampling": {"temperature": 0.4}}, {}),
    ),
    (
        "value_explains_nothing",
        "ppo",
        ({"doctor__value__update__ratio": 1e-8}, {"critic_learning_rate": 1e-8}, {}),
        ({"doctor__value__update__ratio": 1e-3}, {"critic_learning_rate": 1e-3}, {}),
    ),
    (
        "reward_scale",
        "ppo",
        ({"objective__score_std": 22.0, "value__loss": 900.0}, {"value_clip": 0.2}, {}),
        ({"objective__score_std": 1.0, "value__loss": 0.9}, {"value_clip": 0.2}, {}),
    ),
    (
        "kl_penalty_too_strong",
        "ppo",
        ({"kl_coefficient": falling(0.1, 5.0)}, {"kl": {"controller": "adaptive", "target": 1e-4}}, {}),
        ({"kl_coefficient": falling(0.1, 0.2)}, {"kl": {"controller": "adaptive", "target": 6.0}}, {}),
    ),
    (
        "never_ends",
        "ppo",
        ({"response__eos_fraction": 0.0}, {"sampling": {"max_new_tokens": 40, "min_new_tokens": 40}}, {}),
        ({"response__eos_fraction": 0.9}, {"sampling": {"max_new_tokens": 40}}, {}),
    ),
]


@pytest.mark.parametrize(("rule", "stage", "sick", "well"), QUANTITIES)
def test_a_sick_history_is_named_and_its_healthy_neighbour_is_not(rule, stage, sick, well):
    assert first(stage, sick[0], sick[1], beside=beside(**sick[2])) == rule
    assert rule not in found(stage, well[0], well[1], beside=beside(**well[2]))


@pytest.mark.parametrize("stage", CONFIG)
def test_a_usual_start_is_left_in_peace(stage):
    assert found(stage, {}, beside=beside(result_accuracy=0.8)) == {}


def monitored(stage, changes, settings=None, **numbers):
    monitor = Monitor({**CONFIG[stage], **(settings or {})}, beside(**numbers))
    for row in rows(stage, **changes):
        monitor.see(row)
    return monitor


def test_a_careful_rate_is_not_called_too_low():
    """Nothing moved in either run; only a rate far below the usual one is its cause."""
    still = {"loss": 2.0, "doctor__update__ratio": 1e-5}
    slow = monitored("sft", still, {"train": {"learning_rate": 1e-6}}).findings
    careful = monitored("sft", still, {"train": {"learning_rate": 4e-4}}).findings
    assert "0.0003" in slow["learning_rate_too_low"].cure and "learning_rate_too_low" not in careful


@pytest.mark.parametrize(("rule", "stage", "sick", "well"), QUANTITIES)
def test_a_cure_is_never_the_present_value(rule, stage, sick, well):
    settings = {**CONFIG[stage], **sick[1]}
    for finding in monitored(stage, sick[0], settings, **sick[2]).findings.values():
        for key, value in (("beta", settings.get("beta")), ("clip", settings.get("clip"))):
            assert value is None or f"Set {key} {value:g}" not in finding.cure


def test_the_rules_that_could_not_look_say_what_they_lack():
    rowless = monitored("ppo", {"objective__kl": None, "doctor__reward__same_answer": None}).unseen()
    assert "objective/kl" in rowless["kl_explodes"] and "doctor/reward/same_answer" in rowless["reward_random"]
    assert "clip_fraction_high" not in rowless and "never_ends" not in rowless
    assert "length_hacking" not in rowless  # the true quality, which no user knows, is not needed
    assert monitored("sft", {"loss": None}).unseen()["too_easy"] == "loss"


# -- logs of other trainers, which have no size of the updates ------------------------------------

FOREIGN = {"doctor__update__ratio": None, "doctor__update__still": None}
EVERY_12 = lambda value: lambda i, n: value(i) if i % 12 == 11 else None  # noqa: E731


@pytest.mark.parametrize(
    ("rule", "stage", "sick", "well"),
    [
        ("learning_rate_too_high", "sft", {"loss": falling(0.3, 4.0)}, {}),
        ("learning_rate_too_high", "reward", {"reward__chosen": 12.0, "bradley_terry": 0.66}, {"reward__chosen": 1.0}),
        (
            "learning_rate_too_high",
            "dpo",
            {"rewards__chosen": falling(0.0, -7.0), "logps__chosen": falling(-6.0, -76.0)},
            {},
        ),
        (
            "learning_rate_too_low",
            "sft",
            {"loss": 6.0, "eval__loss": EVERY_12(lambda i: 6.0)},
            {"loss": 6.0, "eval__loss": EVERY_12(lambda i: 6.0 - 0.01 * i)},
        ),
        ("learning_rate_too_low", "ppo", {"objective__kl": 0.0}, {}),
        (
            "heldout_differs",
            "sft",
            {"loss": falling(8.0, 2.0), "eval__loss": EVERY_12(lambda i: 0.5 + 0.01 * i)},
            {"loss": falling(8.0, 2.0), "eval__loss": EVERY_12(lambda i: 6.0 - 0.08 * i)},
        ),
        (
            "heldout_near_chance",
            "reward",
            {"accuracy": 1.0, "eval__accuracy": 0.55, "epoch": lambda i, n: i / n},
            {"accuracy": 1.0, "eval__accuracy": 0.55, "epoch": lambda i, n: 30 * i / n},
        ),
        ("answers_identical", "dpo", {"doctor__data__identical": None, "logps__rejected": falling(-40.0, -40.5)},
         {"doctor__data__identical": None}),
    ],
)  # fmt: skip
def test_a_log_without_the_size_of_updates(rule, stage, sick, well):
    settings = {"train": {"learning_rate": 1e-3}}
    still = {"learning_rate": 1e-3, **FOREIGN}
    assert first(stage, {**still, **sick}, settings) == rule
    assert rule not in found(stage, {**still, **well}, settings)


def test_the_weight_of_the_kl_is_read_off_the_loss_of_grpo():
    changes = {"kl_coefficient": None, "loss": 16.0, "objective__kl": falling(0.0, 40.0), **FOREIGN}
    assert "kl_penalty_too_strong" in found("ppo", changes, {"advantage": "grpo"})
    assert "kl_penalty_too_strong" not in found("ppo", changes | {"loss": 0.1}, {"advantage": "grpo"})


def test_answers_that_are_alike_by_the_temperature():
    cold = {"objective__tied_groups": 0.7, "objective__entropy_per_token": 0.03}
    assert "temperature 1" in monitored("ppo", cold).findings["tied_groups"].cure
    warm = monitored("ppo", cold | {"objective__entropy_per_token": 1.0}).findings["tied_groups"]
    assert "temperature 1" not in warm.cure


def test_a_gradient_of_zero_among_tied_answers_is_not_called_frozen():
    still = {"doctor__update__still": 1.0, "grad_norm": 0.0, "learning_rate": 1e-3}
    assert "part_frozen" in found("ppo", still)
    assert "part_frozen" not in found("ppo", still | {"objective__tied_groups": 1.0})
