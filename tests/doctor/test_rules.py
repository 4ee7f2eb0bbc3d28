"""Every rule: a sick history that it names first, and the healthy neighbour, alike but for the evidence."""

import pytest

from concordant.doctor.catalogue import entry
from concordant.doctor.rules import RULES
from tests.doctor.histories import HEALTHY, NAMES, NAN, falling, first, found
from tests.doctor.test_rules_quantities import QUANTITIES

RISING = falling(0.0, 3.0)

# rule, stage, what makes it sick, settings, the neighbour (changes, settings) that must not be called so
CASES = [
    ("response_mask_wrong", "sft", {"doctor__data__prompt_tokens": 1.0}, {}, {"doctor__data__prompt_tokens": 5.0}),
    ("response_mask_wrong", "dpo", {"doctor__data__starts": 0.0}, {}, {"doctor__data__starts": 1.0}),
    (
        "response_mask_wrong",
        "sft",
        {"doctor__data__response_share": 0.5, "doctor__data__end_learnt": 0.3},
        {},
        {"doctor__data__response_share": 0.5},
    ),  # dialogues of several turns have half their tokens from the user
    ("end_token_masked", "sft", {"doctor__data__end_learnt": 0.0}, {}, {"doctor__data__end_learnt": 0.8}),
    ("end_token_missing", "sft", {"doctor__data__ends": 0.1}, {}, {"doctor__data__ends": 0.9}),
    ("answers_identical", "reward", {"doctor__data__identical": 0.4}, {}, {"doctor__data__identical": 0.02}),
    (
        "data_repeated",
        "sft",
        {"doctor__data__batch_id": 7.0, "doctor__data__first_id": 7.0},
        {},
        {"doctor__data__first_id": lambda i, n: i // 2 if i < 4 else i},
    ),
    (
        "data_repeated",
        "ppo",
        {"doctor__data__first_id": lambda i, n: i % 10},
        {},
        {"doctor__data__first_id": lambda i, n: i % 10, "epoch": lambda i, n: (i + 1) / 10},
    ),  # each epoch sees all again
    (
        "data_repeated",
        "dpo",
        {"doctor__data__batch_id": lambda i, n: i % 12, "epoch": lambda i, n: (i + 1) / 12},
        {},
        {"epoch": lambda i, n: (i + 1) / 12},
    ),
    (
        "labels_swapped",
        "reward",
        {"eval__accuracy": 0.3, "eval__samples": 100.0},
        {},
        {"eval__accuracy": 0.3, "eval__samples": 8.0},
    ),
    (
        "labels_swapped",
        "dpo",
        {"eval__rewards__accuracies": 0.7, "eval__samples": 100.0, "eval__loss": 0.5, "eval__gold": falling(0.6, 0.3)},
        {},
        {"eval__rewards__accuracies": 0.7, "eval__samples": 100.0, "eval__gold": falling(0.5, 0.6)},
    ),
    ("chosen_is_longer", "reward", {"doctor__data__chosen_longer": 0.97}, {}, {"doctor__data__chosen_longer": 0.7}),
    ("dropout_on", "ppo", {"doctor__ratio__start": 0.1}, {}, {"doctor__ratio__start": 0.003}),
    ("tokens_after_end", "ppo", {"doctor__response__after_end": 0.1}, {}, {"doctor__response__after_end": 0.0}),
    ("sampler_differs", "ppo", {"doctor__rollout__logprob_gap": 0.3}, {}, {"doctor__rollout__logprob_gap": 0.004}),
    (
        "stale_rollouts",
        "ppo",
        {"doctor__rollout__logprob_gap": falling(0.0, 0.4)},
        {},
        {"doctor__rollout__logprob_gap": falling(0.0, 0.01)},
    ),
    (
        "reference_drifts",
        "ppo",
        {"doctor__reference__logprob": falling(-8.0, -7.0)},
        {},
        {"doctor__reference__logprob": falling(-8.0, -8.001)},
    ),
    (
        "too_many_inner_steps",
        "ppo",
        {"policy__clip_fraction": 0.5, "policy__approx_kl": 0.2},
        {"inner_epochs": 12},
        {"policy__clip_fraction": 0.1},
    ),
    (
        "dpo_reference_is_policy",
        "dpo",
        {"rewards__margins": 0.0, "rewards__chosen": 0.0, "loss": 0.6931},
        {},
        {"rewards__margins": lambda i, n: 1e-4 * i},
    ),
    (
        "reference_not_start",
        "dpo",
        {"rewards__margins": falling(0.6, 0.9)},
        {},
        {"rewards__margins": falling(0.0, 0.9)},
    ),
    ("reference_not_start", "ppo", {"objective__kl": falling(3.0, 6.0)}, {}, {"objective__kl": falling(0.1, 6.0)}),
    (
        "beta_too_small",
        "dpo",
        {"rewards__margins": falling(0.0, 0.2), "loss": 0.68},
        {"beta": 0.01},
        {"rewards__margins": falling(0.0, 0.04)},
    ),
    ("labels_random", "reward", {"accuracy": 0.5, "bradley_terry": 0.69}, {}, {"accuracy": falling(0.5, 0.8)}),
    (
        "chosen_logprob_falls",
        "dpo",
        {"logps__chosen": -60.0, "rewards__chosen": falling(0.0, -4.0)},
        {},
        {"rewards__chosen": falling(0.0, -0.1)},
    ),
    ("part_frozen", "reward", {"doctor__update__head": 0.0}, {}, {"doctor__update__head": 1e-6}),
    ("part_frozen", "sft", {"doctor__update__still": 0.5}, {}, {"doctor__update__still": 0.05}),
    (
        "part_frozen",
        "ppo",
        {"doctor__value__update__still": 1.0, "doctor__value__update__ratio": 0.0},
        {},
        {"doctor__value__update__still": 0.0},
    ),
    (
        "learning_rate_too_high",
        "sft",
        {"loss": falling(4.0, 6.0), "doctor__update__ratio": 0.1},
        {},
        {"doctor__update__ratio": 0.1},
    ),  # large steps alone are how small models learn
    (
        "learning_rate_too_high",
        "reward",
        {"bradley_terry": 2.0, "doctor__update__ratio": 0.1},
        {},
        {"bradley_terry": 0.71},
    ),
    (
        "learning_rate_too_high",
        "ppo",
        {"policy__approx_kl": 0.6, "doctor__update__ratio": 0.1},
        {},
        {"doctor__update__ratio": 0.1},
    ),
    ("not_finite", "sft", {"loss": lambda i, n: NAN if i == 6 else 2.0 - i / n}, {}, {}),
    ("not_finite", "ppo", {"skipped": lambda i, n: float(i == 9)}, {}, {}),
    ("learning_rate_too_low", "sft", {"loss": 4.0, "doctor__update__ratio": 1e-6}, {}, {"doctor__update__ratio": 1e-6}),
    (
        "learning_rate_too_low",
        "dpo",
        {"rewards__margins": 0.001, "rewards__chosen": 0.001, "doctor__update__ratio": 1e-6, "rewards__rejected": 0.0},
        {},
        {"doctor__update__ratio": 1e-6},
    ),
    (
        "learning_rate_too_low",
        "ppo",
        {"objective__kl": 0.001, "doctor__update__ratio": 1e-6},
        {},
        {"objective__kl": falling(0, 2)},
    ),
    ("overfitting", "sft", {"eval__loss": falling(1.0, 3.0)}, {}, {"eval__loss": falling(3.0, 1.2)}),
    ("loss_not_falling", "reward", {"bradley_terry": 0.69, "loss": 0.69}, {}, {"bradley_terry": 0.6, "loss": 0.6}),
    ("reward_constant", "ppo", {"objective__score_std": 0.0}, {}, {"objective__score_std": 0.05}),
    ("tied_groups", "ppo", {"objective__tied_groups": 0.7}, {}, {"objective__tied_groups": 0.3}),
    (
        "reward_reversed",
        "ppo",
        {"doctor__reward__gold_correlation": -0.6, "objective__gold": falling(0.6, 0.3)},
        {},
        {"doctor__reward__gold_correlation": 0.4, "objective__gold": falling(0.5, 0.6)},
    ),
    (
        "length_hacking",
        "ppo",
        {"response__length": falling(40, 90), "doctor__reward__length_correlation": 0.9},
        {},
        {
            "response__length": falling(40, 90),
            "doctor__reward__length_correlation": 0.9,
            "objective__gold": falling(0.3, 0.6),
        },
    ),
    (
        "repetition_hacking",
        "ppo",
        {"doctor__response__repetition": falling(0.01, 0.4)},
        {},
        {"doctor__response__repetition": falling(0.01, 0.4), "objective__score": 0.5},
    ),
    (
        "phrase_hacking",
        "ppo",
        {"doctor__response__top_phrase": falling(0.2, 0.95)},
        {},
        {"doctor__response__top_phrase": falling(0.6, 0.7)},
    ),
    (
        "phrase_hacking",
        "ppo",
        {"doctor__response__top_phrase": falling(0.2, 0.95), "objective__gold": falling(0.6, 0.5)},
        {},
        {"doctor__response__top_phrase": falling(0.2, 0.95), "objective__gold": 0.6},
    ),
    (
        "ensemble_disagrees",
        "ppo",
        {"doctor__reward__agreement": falling(0.8, 0.1)},
        {},
        {"doctor__reward__agreement": falling(0.8, 0.6)},
    ),
    ("proxy_over_gold", "ppo", {"objective__gold": falling(0.6, 0.3)}, {}, {"objective__gold": falling(0.5, 0.52)}),
    (
        "reward_out_of_range",
        "ppo",
        {"doctor__reward__z": falling(0.5, 4.0)},
        {},
        {"doctor__reward__z": falling(0.0, 1.8)},
    ),
    (
        "reward_misread",
        "ppo",
        {"doctor__reward__z": -1.2, "doctor__reward__spread": 0.1},
        {},
        {"doctor__reward__z": -1.2, "doctor__reward__spread": 0.8},
    ),
    ("never_ends", "ppo", {"response__eos_fraction": 0.0}, {}, {"response__eos_fraction": 0.7}),
    (
        "stops_ending",
        "ppo",
        {"response__eos_fraction": falling(0.95, 0.2)},
        {},
        {"response__eos_fraction": falling(0.95, 0.7)},
    ),
    ("entropy_explodes", "ppo", {"objective__entropy_per_token": falling(1.0, 5.0)}, {"entropy_coefficient": 1.0}, {}),
    (
        "kl_penalty_off",
        "ppo",
        {"kl_coefficient": 0.0, "objective__kl": falling(0.0, 30.0)},
        {},
        {"kl_coefficient": 0.0},
    ),
    ("clip_too_narrow", "ppo", {"policy__clip_fraction": 0.12}, {"clip": 0.01}, {"policy__clip_fraction": 0.02}),
    (
        "entropy_penalised",
        "ppo",
        {"objective__entropy_per_token": falling(1.0, 0.5)},
        {"entropy_coefficient": -0.1},
        {"objective__entropy_per_token": 1.0},
    ),
    ("reference_not_start", "dpo", {"loss": falling(1.2, 0.6)}, {}, {}),
    ("clip_fraction_high", "ppo", {"policy__clip_fraction": 0.6}, {}, {"policy__clip_fraction": 0.25}),
    ("entropy_collapse", "ppo", {"objective__entropy_per_token": falling(1.0, 0.05)}, {}, {}),
    ("kl_explodes", "ppo", {"objective__kl": falling(0.0, 120.0)}, {}, {"objective__kl": falling(0.0, 12.0)}),
    ("kl_negative", "ppo", {"objective__kl": falling(0.0, -3.0)}, {}, {"objective__kl": -0.05}),
    ("value_explains_nothing", "ppo", {"value__explained_variance": -0.2}, {}, {"value__explained_variance": 0.2}),
    ("reward_falls", "ppo", {"objective__score": falling(1.0, -1.0)}, {}, {"objective__score": 1.0}),
]


@pytest.mark.parametrize(("rule", "stage", "sick", "settings", "well"), CASES)
def test_a_sick_history_is_named_and_its_healthy_neighbour_is_not(rule, stage, sick, settings, well):
    assert first(stage, sick, settings) == rule
    assert rule not in found(stage, well, settings)


@pytest.mark.parametrize("stage", HEALTHY)
def test_a_healthy_run_is_left_in_peace(stage):
    assert found(stage, {}) == {}


def test_every_rule_has_its_case():
    assert {case[0] for case in (*CASES, *QUANTITIES)} | {"clip_fraction_zero"} == set(NAMES)


def test_names_are_unique_and_texts_are_sentences():
    assert len(set(NAMES)) == len(NAMES)
    assert all(entry(rule.name).why.endswith(".") and 0 < rule.weight < 1 for rule in RULES)
