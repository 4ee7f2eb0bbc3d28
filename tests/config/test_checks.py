"""faults.md row 27: a value out of range or a contradictory pair names the key, what was given and what is allowed."""

from __future__ import annotations

import dataclasses
from typing import get_type_hints

import pytest

from concordant.config.checks import CONTRADICTIONS, NEEDED, VALUES, Range, validate
from concordant.config.fields import build, flatten, schema
from concordant.config.stages import (
    BestOfNConfig,
    DPOConfig,
    EvaluateConfig,
    GenerateConfig,
    MergeConfig,
    PPOConfig,
    RewardConfig,
    SFTConfig,
)
from concordant.core.errors import UserError
from concordant.verbs import VERBS

GOOD = {
    "output": "runs/x",
    "data.path": "d.jsonl",
    "model.name": "builtin:tiny",
    "model.adapter": "a",
    "reward": ["r"],
    "policies": ["a=b"],
    "sampling.n": 4,
}


def made(config_class, **changes):
    values = flatten(config_class())
    values |= {key: value for key, value in GOOD.items() if key in values}
    return build(config_class, values | {key.replace("__", "."): value for key, value in changes.items()})


def refused(config_class, message, **changes):
    with pytest.raises(UserError, match=message):
        validate(made(config_class, **changes))


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "generate"])
def test_defaults_are_valid_once_what_is_needed_is_there(verb):
    validate(made(VERBS[verb].config_class()))


@pytest.mark.parametrize(
    ("config_class", "key", "value", "message"),
    [
        (SFTConfig, "train.learning_rate", -1.0, r"train.learning_rate: expected a number in \(0, ∞\); given -1.0"),
        (SFTConfig, "train.learning_rate", float("nan"), "train.learning_rate: .*given nan"),
        (SFTConfig, "train.learning_rate", float("inf"), "train.learning_rate: .*given inf"),
        (SFTConfig, "data.test_fraction", 0.0, r"data.test_fraction: expected a number in \(0, 1\); given 0.0"),
        (SFTConfig, "data.test_fraction", 1.0, r"data.test_fraction: expected a number in \(0, 1\); given 1.0"),
        (SFTConfig, "train.schedule", "cosin", 'expected one of linear, cosine, constant. Did you mean "cosine"'),
        (SFTConfig, "train.batch_size", 0, r"train.batch_size: expected a number in \[1, ∞\); given 0"),
        (SFTConfig, "resume", "yes", "resume: expected one of .*auto"),
        (SFTConfig, "model.device", "gpu", "model.device: expected auto, cpu, cuda or cuda:NUMBER"),
        (SFTConfig, "model.lora.rank", -1, "model.lora.rank"),
        (SFTConfig, "responses", "best", "responses: expected one of both, chosen"),
        (RewardConfig, "label_smoothing", 0.5, r"label_smoothing: expected a number in \[0, 0.5\); given 0.5"),
        (RewardConfig, "temperature", 0.0, r"temperature: expected a number in \(0, ∞\)"),
        (DPOConfig, "label_smoothing", -0.1, r"label_smoothing: expected a number in \[0, 0.5\)"),
        (DPOConfig, "loss", "sigmiod", 'loss: expected one of sigmoid, ipo, robust. Did you mean "sigmoid"'),
        (DPOConfig, "beta", 0.0, "beta"),
        (PPOConfig, "clip", 0.0, r"clip: expected a number in \(0, 1\); given 0.0"),
        (PPOConfig, "clip", -0.2, "clip"),
        (PPOConfig, "sampling.temperature", -1.0, r"sampling.temperature: expected a number in \[0, ∞\)"),
        (PPOConfig, "sampling.n", 0, r"sampling.n: expected a number in \[1, ∞\); given 0"),
        (PPOConfig, "sampling.top_p", 0.0, r"sampling.top_p: expected a number in \(0, 1\]"),
        (PPOConfig, "advantage", "gea", 'advantage: expected one of gae, rloo, grpo. Did you mean "gae"'),
        (PPOConfig, "gamma", 1.1, r"gamma: expected a number in \[0, 1\]"),
        (PPOConfig, "kl.horizon", 0, "kl.horizon"),
        (PPOConfig, "aggregation", "mean", "aggregation: expected one of token-mean"),
        (EvaluateConfig, "runs", ["x"], 'runs: "x" is not NAME=PATH'),
        (BestOfNConfig, "split", "dev", "split: expected one of train, test"),
    ],
)
def test_out_of_range(config_class, key, value, message):
    refused(config_class, message, **{key: value})


@pytest.mark.parametrize(
    ("config_class", "changes", "message"),
    [
        (PPOConfig, {"advantage": "rloo", "sampling.n": 1}, 'advantage="rloo", sampling.n=1: .*needs sampling.n of 2'),
        (PPOConfig, {"advantage": "grpo", "sampling.n": 1}, 'advantage="grpo", sampling.n=1'),
        (PPOConfig, {"kl.place": "loss"}, 'kl.place="loss", kl.estimator="k1": .*expected gradient of 0.*use k2'),
        (PPOConfig, {"kl.estimator": "k3"}, 'kl.place="reward", kl.estimator="k3": .*set kl.place loss'),
        (PPOConfig, {"kl.controller": "adaptive", "kl.coefficient": 0.0}, "0 stays 0"),
        (PPOConfig, {"sampling.top_p": 0.9}, "sampling.top_p=0.9.*allow_truncated_sampling true"),
        (PPOConfig, {"sampling.top_k": 5}, "sampling.top_k=5.*allow_truncated_sampling true"),
        (PPOConfig, {"sampling.temperature": 0.0}, "sampling.temperature=0.0: .*value above 0"),
        (PPOConfig, {"minibatches": 64}, "minibatches=64, train.batch_size=32: .*hold no prompt"),
        (PPOConfig, {"critic_warmup": 5, "train.max_steps": 5}, "end before the policy learns"),
        (BestOfNConfig, {"sampling.n": 1}, "sampling.n=1: the best of one is that one; use 2 or more"),
        (BestOfNConfig, {"sampling.temperature": 0.0}, "n equal answers"),
        (SFTConfig, {"train.early_stopping": 3}, "train.early_stopping=3, train.evaluate_every=0"),
        (SFTConfig, {"data.test_path": "d.jsonl"}, "held-out data would be the training data"),
        (DPOConfig, {"loss": "ipo", "label_smoothing": 0.1}, "IPO has no label smoothing"),
        (GenerateConfig, {"data.path": ""}, "give either --prompt TEXT or --data FILE"),
        (GenerateConfig, {"prompt": "hello"}, "give either --prompt TEXT or --data FILE"),
    ],
)
def test_contradictions(config_class, changes, message):
    refused(config_class, message, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"kl.place": "loss", "kl.estimator": "k2"},
        {"kl.place": "loss", "kl.estimator": "exact"},
        {"sampling.top_p": 0.9, "allow_truncated_sampling": True},
        {"advantage": "rloo", "sampling.n": 2},
        {"critic_warmup": 2, "train.max_steps": 0},
    ],
)
def test_neighbours_of_contradictions_are_fine(changes):
    validate(made(PPOConfig, **changes))


@pytest.mark.parametrize(
    ("config_class", "key", "message"),
    [
        (SFTConfig, "output", "output is needed; give --output runs/NAME"),
        (SFTConfig, "data.path", "data.path is needed; give --data FILE"),
        (PPOConfig, "reward", "reward is needed; give --reward FOLDER, module:function or rule:NAME"),
        (EvaluateConfig, "policies", "policies is needed"),
        (MergeConfig, "model.adapter", "model.adapter is needed"),
    ],
)
def test_what_is_missing_is_asked_for(config_class, key, message):
    empty = [] if isinstance(GOOD[key], list) else ""
    refused(config_class, message, **{key: empty})


def test_everything_wrong_is_said_at_once():
    with pytest.raises(UserError) as caught:
        validate(made(SFTConfig, **{"train.learning_rate": -1.0, "data.test_fraction": 2.0}))
    assert "train.learning_rate" in str(caught.value) and "data.test_fraction" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [("[0, 1)", [0, 0.5], [-0.1, 1]), ("(0, ∞)", [1e-9, 1e9], [0, float("inf"), float("nan")])],
)
def test_round_brackets_leave_the_end_out(text, inside, outside):
    assert not any(Range(text).problem(value) for value in inside)
    assert all(Range(text).problem(value) for value in outside)


def test_the_tables_name_keys_that_exist():
    for owner, rules in VALUES.items():
        assert rules.keys() <= {field.name for field in dataclasses.fields(owner)}, owner
    for owner, keys in NEEDED.items():
        assert set(keys) <= schema(owner).fields.keys()
    for owner, rules in CONTRADICTIONS.items():
        assert all(set(rule.keys) <= schema(owner).fields.keys() for rule in rules)


def test_every_number_has_a_range_or_a_reason():
    free = {"seed", "entropy_coefficient"}  # any whole number; a negative entropy bonus is a penalty
    for verb in VERBS.values():
        for known in schema(verb.config_class()).fields.values():
            if known.kind in (int, float):
                rules = {name for owner in known.owner.__mro__ for name in VALUES.get(owner, {})}
                assert known.name in rules | free, f"{known.owner.__name__}.{known.name}"


def test_hints_resolve_for_every_verb():
    for verb in VERBS.values():
        assert get_type_hints(verb.config_class())
