"""faults.md row 27: a value out of range or a contradictory pair names the key, what was given and what is allowed."""

from __future__ import annotations

import dataclasses
from typing import get_type_hints

import pytest

from concordant.config.checks import NEEDED, validate
from concordant.config.contradictions import CONTRADICTIONS
from concordant.config.fields import build, flatten, schema
from concordant.config.ranges import VALUES, Range
from concordant.config.stages import (
    AverageConfig,
    BestOfNConfig,
    ChatConfig,
    CollectConfig,
    DistillConfig,
    DPOConfig,
    EvaluateConfig,
    GenerateConfig,
    MergeConfig,
    PPOConfig,
    PrepareConfig,
    PushConfig,
    RewardConfig,
    SFTConfig,
)
from concordant.core.errors import UserError
from concordant.verbs import VERBS

GOOD = {
    "action": "status",
    "database": "votes.db",
    "output": "runs/x",
    "data.path": "d.jsonl",
    "model.name": "builtin:tiny",
    "model.adapter": "a",
    "reward": ["r"],
    "teacher": "t",
    "policies": ["a=b"],
    "judge": "m:f",
    "principles": "builtin",
    "models": ["a", "b"],
    "folder": "runs/x",
    "id": "owner/name",
}


def made(config_class, **changes):
    values = flatten(config_class())
    needed = [key for owner in config_class.__mro__ for key in NEEDED.get(owner, ())]
    values |= {key: GOOD[key] for key in needed} | ({"sampling.n": 4} if config_class is PPOConfig else {})
    return build(config_class, values | {key.replace("__", "."): value for key, value in changes.items()})


def refused(config_class, message, **changes):
    with pytest.raises(UserError, match=message):
        validate(made(config_class, **changes))


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in ("generate", "plan")])
def test_defaults_are_valid_once_what_is_needed_is_there(verb):
    validate(made(VERBS[verb].config_class()))


@pytest.mark.parametrize(
    ("config_class", "key", "value", "message"),
    [
        (SFTConfig, "train.learning_rate", -1.0, r"train.learning_rate: expected a number in \[0, ∞\); given -1.0"),
        (SFTConfig, "train.learning_rate", float("nan"), "train.learning_rate: .*given nan"),
        (SFTConfig, "train.learning_rate", float("inf"), "train.learning_rate: .*given inf"),
        (SFTConfig, "data.test_fraction", 0.0, r"data.test_fraction: expected a number in \(0, 1\); given 0.0"),
        (SFTConfig, "data.test_fraction", 1.0, r"data.test_fraction: expected a number in \(0, 1\); given 1.0"),
        (SFTConfig, "train.schedule", "cosin", r'cosine, constant; given "cosin". Did you mean "cosine"\?$'),
        (SFTConfig, "train.batch_size", -1, r"train.batch_size: expected a number in \[0, ∞\); given -1"),
        (SFTConfig, "train.threads", 100_000, r"train.threads: expected a number in \[0, 1024\]; given 100000"),
        (SFTConfig, "train.epochs", 1e308, r"train.epochs: expected a number in \[0, 1000000\]; given 1e\+308"),
        (BestOfNConfig, "sampling.n", 10**8, r"sampling.n: expected a number in \[1, 1000000\]"),
        (SFTConfig, "resume", "yes", "resume: expected one of .*auto"),
        (SFTConfig, "model.device", "gpu", "model.device: expected auto, cpu, cuda or cuda:NUMBER"),
        (SFTConfig, "model.lora.rank", -1, "model.lora.rank"),
        (SFTConfig, "responses", "best", "responses: expected one of both, chosen"),
        (RewardConfig, "label_smoothing", 0.5, r"label_smoothing: expected a number in \[0, 0.5\); given 0.5"),
        (PPOConfig, "reward_timeout", -1.0, r"reward_timeout: expected a number in \[0, ∞\)"),
        (BestOfNConfig, "reward_timeout", -1.0, r"reward_timeout: expected a number in \[0, ∞\)"),
        (EvaluateConfig, "reward_on_error", "ignore", "reward_on_error: expected one of fail, skip, retry"),
        (RewardConfig, "temperature", 0.0, r"temperature: expected a number in \(0, ∞\)"),
        (DPOConfig, "label_smoothing", -0.1, r"label_smoothing: expected a number in \[0, 0.5\)"),
        (DPOConfig, "label_smoothing", 0.5, r"label_smoothing: expected a number in \[0, 0.5\); given 0.5"),
        (DPOConfig, "loss", "sigmiod", 'apo_zero_unpaired; given "sigmiod". Did you mean "sigmoid"'),
        (DPOConfig, "beta", 0.0, "beta"),
        (PPOConfig, "constraint.limit", float("nan"), "constraint.limit: .*given nan"),
        (PPOConfig, "constraint.multiplier", 0.0, r"constraint.multiplier: expected a number in \[0.01, ∞\)"),
        (PPOConfig, "scoring.ensemble", "min", 'mean-std; given "min". Did you mean "minimum"|expected one of none'),
        (PPOConfig, "clip", 0.0, r"clip: expected a number in \(0, 1\); given 0.0"),
        (PPOConfig, "clip", -0.2, "clip"),
        (PPOConfig, "sampling.temperature", -1.0, r"sampling.temperature: expected a number in \[0, ∞\)"),
        (PPOConfig, "sampling.n", 0, r"sampling.n: expected a number in \[1, 1000000\]; given 0"),
        (PPOConfig, "sampling.top_p", 0.0, r"sampling.top_p: expected a number in \(0, 1\]"),
        (GenerateConfig, "sampling.min_p", 1.5, r"sampling.min_p: expected a number in \[0, 1\]; given 1.5"),
        (ChatConfig, "sampling.repetition_penalty", 0.0, r"repetition_penalty: expected a number in \(0, ∞\)"),
        (EvaluateConfig, "sampling.min_new_tokens", -1, r"sampling.min_new_tokens: expected a number in \[0, ∞\)"),
        (BestOfNConfig, "sampling.stop_strings", ["a", ""], r"stop_strings: expected texts that are not empty"),
        (BestOfNConfig, "sampling.stop_strings", ["\ud83d"], r"stop_strings: expected texts of whole Unicode"),
        (BestOfNConfig, "sampling.stop_strings", "STOP", "stop_strings: expected a list of texts"),
        (PPOConfig, "advantage", "gea", 'remax; given "gea". Did you mean "gae"'),
        (PPOConfig, "gamma", 1.1, r"gamma: expected a number in \[0, 1\]"),
        (PPOConfig, "kl.horizon", 0, "kl.horizon"),
        (PPOConfig, "aggregation", "mean", "aggregation: expected one of token-mean"),
        (EvaluateConfig, "runs", ["x"], 'runs: "x" is not NAME=PATH'),
        (BestOfNConfig, "split", "dev", "split: expected one of train, test"),
        (SFTConfig, "train.min_rate_fraction", 1.0, r"min_rate_fraction: expected a number in \[0, 1\)"),
        (SFTConfig, "train.tracker", ["mlflow", "wanb"], r'mlflow; given "wanb". Did you mean "wandb"\?$'),
        (SFTConfig, "train.tracker", ["wandb", "wandb"], '"wandb" is given twice'),
        (PushConfig, "id", "name", "id: expected OWNER/NAME"),
    ],
)
def test_out_of_range(config_class, key, value, message):
    refused(config_class, message, **{key: value})


@pytest.mark.parametrize(
    ("config_class", "changes", "message"),
    [
        (
            PPOConfig,
            {"advantage": "rloo", "sampling.n": 1},
            'advantage="rloo", sampling.n=1: .*set sampling.n',
        ),
        (PPOConfig, {"advantage": "grpo", "sampling.n": 1}, 'advantage="grpo", sampling.n=1'),
        (PPOConfig, {"kl.place": "loss", "kl.estimator": "k1"}, 'kl.place="loss", .*expected gradient of 0.*use k2'),
        (PPOConfig, {"kl.estimator": "k3"}, 'kl.place="auto", kl.estimator="k3": .*set kl.place loss'),
        (PPOConfig, {"kl.controller": "adaptive", "kl.coefficient": 0.0}, "0 stays 0"),
        (PPOConfig, {"sampling.top_p": 0.9}, "sampling.top_p=0.9.*allow_truncated_sampling true"),
        (PPOConfig, {"sampling.top_k": 5}, "sampling.top_k=5.*allow_truncated_sampling true"),
        (
            PPOConfig,
            {"sampling.engine": "vllm", "sampling.temperature": 3.0},
            "vLLM takes 0 and temperatures from 0.01",
        ),
        (PPOConfig, {"sampling.engine": "vllm", "model.trust_remote_code": True}, "vLLM runs a model by its own code"),
        (PPOConfig, {"constraint.cost": "c", "constraint.multiplier": 11.0}, "would start above its bound"),
        (PPOConfig, {"constraint.limit": 1.0}, "constraint.limit=1.0 would do nothing.*give constraint.cost"),
        (PPOConfig, {"scoring.deviations": 2.0}, "scoring.deviations=2.0 would do nothing"),
        (PPOConfig, {"stop_disagreement": 2.0}, "only the members of an ensemble can disagree"),
        (PPOConfig, {"stop_disagreement": 1.0, "scoring.ensemble": "mean"}, "the run would end at once"),
        (AverageConfig, {"models": ["a"]}, "an average needs two different models"),
        (PPOConfig, {"importance_cap": 0.5}, "importance_cap=0.5: a cap below 1"),
        (PPOConfig, {"importance_cap": 2.0, "model.precision": "fp32"}, "importance_cap=2.0 would do nothing"),
        (PPOConfig, {"sampling.min_p": 0.1}, "sampling.min_p=0.1.*set sampling.min_p 0, or accept"),
        (
            PPOConfig,
            {"sampling.repetition_penalty": 1.2},
            "repetition_penalty=1.2.*set .*penalty 1, or accept",
        ),
        (PPOConfig, {"sampling.min_new_tokens": 4}, "sampling.min_new_tokens=4.*allow_truncated_sampling true"),
        (GenerateConfig, {"sampling.min_new_tokens": 129, "prompt": "x"}, "min_new_tokens=129, .*max_new_tokens=128"),
        (ChatConfig, {"sampling.min_new_tokens": 129}, "no answer can have so many tokens"),
        (BestOfNConfig, {"sampling.min_new_tokens": 129}, "no answer can have so many tokens"),
        (EvaluateConfig, {"sampling.min_new_tokens": 129}, "no answer can have so many tokens"),
        (PPOConfig, {"sampling.min_new_tokens": 129, "allow_truncated_sampling": True}, "no answer can have so many"),
        (PPOConfig, {"sampling.temperature": 0.0}, "sampling.temperature=0.0: .*value above 0"),
        (
            PPOConfig,
            {"minibatches": 64, "train.batch_size": 32},
            "minibatches=64, train.batch_size=32: .*hold no prompt",
        ),
        (PPOConfig, {"critic_warmup": 5, "train.max_steps": 5}, "end before the policy learns"),
        (
            PPOConfig,
            {"advantage": "dr_grpo", "sampling.n": 1},
            'advantage="dr_grpo", sampling.n=1: it compares the samples of one',
        ),
        (PPOConfig, {"advantage": "reinforce++-baseline", "sampling.n": 1}, "it compares the samples of one prompt"),
        (PPOConfig, {"policy_loss": "cispo"}, "clip_high=0.0: the greatest weight of a token"),
        (PPOConfig, {"policy_loss": "dual-clip", "clip_dual": 1.1}, "clip_dual=1.1: .*raise clip_dual"),
        (PPOConfig, {"clip_high": 0.1}, "clip_high=0.1, clip=0.2: .*rare tokens die out"),
        (
            PPOConfig,
            {"dynamic_sampling": 3, "sampling.n": 1},
            "dynamic_sampling=3, sampling.n=1: the rewards of one answer",
        ),
        (PPOConfig, {"overlong_penalty": 1.0}, "overlong_penalty=1.0, overlong_buffer=0: .*between one and all"),
        (PPOConfig, {"overlong_penalty": 1.0, "overlong_buffer": 129}, "between one and all of them"),
        (SFTConfig, {"train.warmup_steps": 6, "train.max_steps": 5}, "warmup_steps=6, .*max_steps=5: .*never reach"),
        (CollectConfig, {"sampling.n": 1}, "sampling.n=1: with one answer there is nothing to choose"),
        (BestOfNConfig, {"sampling.n": 1}, "sampling.n=1: with one answer there is nothing to choose; use 2 or more"),
        (BestOfNConfig, {"sampling.temperature": 0.0}, "n equal answers"),
        (
            SFTConfig,
            {"train.early_stopping": 3, "train.evaluate_every": 0},
            "train.early_stopping=3, train.evaluate_every=0",
        ),
        (SFTConfig, {"data.test_path": "d.jsonl"}, "held-out data would be the training data"),
        (RewardConfig, {"train.early_stopping": 2, "validation_fraction": 0.0}, "validation slice, and there is none"),
        (
            EvaluateConfig,
            {"policies": ["a=best_of_n:4:b"]},
            r"policies=.*, reward=\[\]: best_of_n keeps .*give --reward",
        ),
        (PrepareConfig, {"max_samples": 5, "data.max_samples": 6}, "both limit the number of rows"),
        (GenerateConfig, {"data.path": ""}, "give either --prompt TEXT or --data FILE"),
        (GenerateConfig, {"prompt": "hello", "data.path": "d.jsonl"}, "give either --prompt TEXT or --data FILE"),
        (SFTConfig, {"train.optimizer": "muon", "cluster.tensor": 2}, "look at whole matrices"),
        (SFTConfig, {"train.optimizer": "adafactor", "model.lora.rank": 4}, "an adapter's B begins at 0"),
        (SFTConfig, {"model.quantize": "nf4"}, "weights of four bits cannot be trained; set model.lora.rank"),
        (RewardConfig, {"model.quantize": "nf4", "model.adapter": "a"}, "weights of four bits cannot be trained"),
        (SFTConfig, {"model.quantize": "nf4", "model.lora.rank": 4, "cluster.tensor": 2}, "are not split over workers"),
        (DistillConfig, {"teacher": "builtin:tiny"}, "a built-in model begins with random weights"),
        (DistillConfig, {"teacher": "t", "model.name": "t"}, "a student that is its own teacher"),
        (DistillConfig, {"sampling.engine": "vllm"}, "vLLM holds one model in a process"),
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
        {"sampling.engine": "vllm", "importance_cap": 2.0, "model.precision": "fp32"},
        {"sampling.min_p": 0.1, "sampling.min_new_tokens": 128, "allow_truncated_sampling": True},
        {"sampling.stop_strings": ["\nHuman:"]},
        {"advantage": "rloo", "sampling.n": 2},
        {"advantage": "remax"},
        {"advantage": "reinforce++", "gamma": 0.9},
        {"policy_loss": "gspo", "clip": 3e-4, "clip_high": 4e-4},
        {"overlong_penalty": 1.0, "overlong_buffer": 128},
        {"mask_truncated": True, "missing_eos_penalty": 1.0, "advantage": "grpo", "sampling.n": 2},
        {"critic_warmup": 2, "train.max_steps": 0},
        {"minibatches": 8, "train.batch_size": 8},
        {"train.warmup_steps": 5, "train.max_steps": 5},
        {"train.warmup_steps": 5, "train.max_steps": 0},
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


def test_ipo_takes_label_smoothing():
    validate(made(DPOConfig, loss="ipo", label_smoothing=0.1))


@pytest.mark.parametrize(
    ("config_class", "key", "value"),
    [
        (SFTConfig, "output", "x" * 300),
        (SFTConfig, "model.name", "x" * 300),
        (DPOConfig, "reference", "x" * 300),
        (PPOConfig, "reward", ["x" * 300 + "=0.5"]),
        (BestOfNConfig, "data.path", "a\0b"),
        (EvaluateConfig, "policies", ["a=best_of_n:4:" + "x" * 300]),
        (EvaluateConfig, "perplexity_text", "x" * 300),
        (PushConfig, "folder", "x" * 300),
    ],
)
def test_a_name_that_no_disk_can_hold_is_refused_with_its_key(config_class, key, value):
    with pytest.raises(UserError) as caught:
        validate(build(config_class, flatten(made(config_class)) | {key: value}))
    assert str(caught.value).startswith(f'{key}: cannot open "') and len(str(caught.value)) < 200


def test_a_text_that_is_no_unicode_is_refused_and_a_files_name_is_not(tmp_path):
    """The shell passes bytes that are no UTF-8 as half surrogate pairs. A file may have such a name."""
    refused(GenerateConfig, "prompt: expected text in UTF-8", prompt="a\udcff")
    refused(SFTConfig, "data.columns: expected text in UTF-8", data__columns=["prompt=q", "chosen=\udcff"])
    validate(made(SFTConfig, data__path=str(tmp_path / "\udcff.jsonl"), model__name="\udcff"))
    refused(SFTConfig, "output: expected text in UTF-8", output="\udcff")


def test_roles_stand_apart_only_where_they_can_act():
    refused(PPOConfig, "cluster.apart.generator.*set cluster.ray", cluster__apart__generator=2)
    refused(PPOConfig, r"cluster.apart.critic: expected a number in \[0, ∞\)", cluster__apart__critic=-1)
    on_ray = {"cluster__ray": "local"}
    validate(made(PPOConfig, cluster__apart__reward=1, cluster__apart__critic=2, **on_ray))
    refused(SFTConfig, "only ppo has roles that may stand apart", cluster__apart__generator=1, **on_ray)
    refused(PPOConfig, "have no critic", advantage="rloo", cluster__apart__critic=1, **on_ray)
    refused(PPOConfig, "no reward is a model", reward=["rule:length", "m:f=0.5"], cluster__apart__reward=1, **on_ray)
    refused(PPOConfig, "leave cluster.apart.reference out", kl__estimator="exact", kl__place="loss",
            cluster__apart__reference=1, **on_ray)  # fmt: skip
    refused(PPOConfig, "cluster.restarts.*hold an optimizer's state", cluster__restarts=5, **on_ray)
    validate(made(PPOConfig, cluster__restarts=5, cluster__apart__generator=1, **on_ray))
