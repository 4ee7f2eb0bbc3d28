"""What a config may hold: a table of single values, a table of what is needed, a table of pairs that contradict.

``validate`` reports everything that is wrong at once, each with its key, what was given and what was expected.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from concordant.config import stages as s
from concordant.config.data import DataConfig
from concordant.config.doctor import DoctorConfig
from concordant.config.fields import flatten, schema
from concordant.config.model import LoraConfig, ModelConfig
from concordant.config.sampling import SamplingConfig
from concordant.config.train import TrainConfig
from concordant.core.errors import UserError, nearest


@dataclass(frozen=True, slots=True)
class Range:
    """A number's range in the usual notation, ``[0, 1)``: square brackets include the end, round ones do not.

    NaN is in no range."""

    text: str

    def problem(self, value: Any) -> str | None:
        low, high = (float(end) for end in self.text[1:-1].replace("∞", "inf").split(","))
        above = low <= value if self.text[0] == "[" else low < value
        below = value <= high if self.text[-1] == "]" else value < high
        return None if above and below else f"expected a number in {self.text}"


class OneOf:
    """A name out of a short list."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def problem(self, value: Any) -> str | None:
        return None if value in self.names else f"expected one of {', '.join(self.names)}.{nearest(value, self.names)}"


@dataclass(frozen=True, slots=True)
class Matches:
    """Text of a certain form."""

    pattern: str
    expected: str

    def problem(self, value: Any) -> str | None:
        return None if re.fullmatch(self.pattern, value) else f"expected {self.expected}"


@dataclass(frozen=True, slots=True)
class EachMatches:
    """A list whose every item has a certain form."""

    pattern: str
    expected: str

    def problem(self, value: Any) -> str | None:
        bad = [item for item in value if not re.fullmatch(self.pattern, item)]
        return f'"{bad[0]}" is not {self.expected}' if bad else None


Rule = Range | OneOf | Matches | EachMatches

POSITIVE, NOT_NEGATIVE, COUNT = Range("(0, ∞)"), Range("[0, ∞)"), Range("[1, ∞)")
NAMED_PATH = EachMatches(r"[^=\s]+=.+", "NAME=PATH")

VALUES: dict[type, dict[str, Rule]] = {
    DataConfig: {
        "test_fraction": Range("(0, 1)"),
        "max_samples": NOT_NEGATIVE,
        "max_prompt_tokens": COUNT,
        "max_response_tokens": COUNT,
        "too_long": OneOf("drop", "cut_prompt_start", "cut_response_end"),
    },
    DoctorConfig: {"stop_on": OneOf("", "warning", "error")},
    LoraConfig: {"rank": NOT_NEGATIVE, "alpha": POSITIVE, "dropout": Range("[0, 1)")},
    ModelConfig: {
        "precision": OneOf("auto", "fp32", "bf16"),
        "kernels": OneOf("fast", "plain"),
        "device": Matches(r"auto|cpu|cuda(:\d+)?", "auto, cpu, cuda or cuda:NUMBER"),
    },
    SamplingConfig: {
        "n": COUNT,
        "temperature": NOT_NEGATIVE,
        "top_p": Range("(0, 1]"),
        "top_k": NOT_NEGATIVE,
        "max_new_tokens": COUNT,
        "slots": COUNT,
    },
    TrainConfig: {
        "max_steps": NOT_NEGATIVE,
        "epochs": POSITIVE,
        "batch_size": COUNT,
        "micro_batch_tokens": NOT_NEGATIVE,
        "learning_rate": POSITIVE,
        "schedule": OneOf("linear", "cosine", "constant"),
        "warmup_fraction": Range("[0, 1]"),
        "weight_decay": NOT_NEGATIVE,
        "beta1": Range("[0, 1)"),
        "beta2": Range("[0, 1)"),
        "max_grad_norm": NOT_NEGATIVE,
        "log_every": COUNT,
        "evaluate_every": NOT_NEGATIVE,
        "save_every": NOT_NEGATIVE,
        "save_minutes": NOT_NEGATIVE,
        "keep_last": COUNT,
        "early_stopping": NOT_NEGATIVE,
        "threads": NOT_NEGATIVE,
    },
    s.RunConfig: {"resume": OneOf("", "auto", "force")},
    s.SFTConfig: {"responses": OneOf("both", "chosen")},
    s.RewardConfig: {
        "margin": NOT_NEGATIVE,
        "temperature": POSITIVE,
        "label_smoothing": Range("[0, 0.5)"),
        "centering": NOT_NEGATIVE,
        "lm_coefficient": NOT_NEGATIVE,
        "validation_fraction": Range("[0, 1)"),
    },
    s.DPOConfig: {
        "loss": OneOf("sigmoid", "ipo", "robust"),
        "beta": POSITIVE,
        "label_smoothing": Range("[0, 0.5)"),
    },
    s.KLConfig: {
        "place": OneOf("reward", "loss"),
        "estimator": OneOf("k1", "k2", "k3", "exact"),
        "coefficient": NOT_NEGATIVE,
        "controller": OneOf("fixed", "adaptive"),
        "target": POSITIVE,
        "horizon": COUNT,
    },
    s.PPOConfig: {
        "reward_normalize": OneOf("none", "start", "running"),
        "reward_clip": NOT_NEGATIVE,
        "missing_eos_penalty": NOT_NEGATIVE,
        "advantage": OneOf("gae", "rloo", "grpo"),
        "gamma": Range("[0, 1]"),
        "lam": Range("[0, 1]"),
        "clip": Range("(0, 1)"),
        "value_clip": NOT_NEGATIVE,
        "value_coefficient": NOT_NEGATIVE,
        "aggregation": OneOf("token-mean", "seq-mean-token-sum", "seq-mean-token-mean"),
        "inner_epochs": COUNT,
        "minibatches": COUNT,
        "stop_kl": NOT_NEGATIVE,
        "critic_head": OneOf("linear", "mlp"),
        "critic_learning_rate": NOT_NEGATIVE,
        "critic_warmup": NOT_NEGATIVE,
    },
    s.BestOfNConfig: {"split": OneOf("train", "test"), "resume": OneOf("", "auto", "force")},
    s.EvaluateConfig: {
        "policies": NAMED_PATH,
        "runs": NAMED_PATH,
        "max_prompts": COUNT,
        "side_by_side": NOT_NEGATIVE,
        "bootstrap": COUNT,
    },
    s.PrepareConfig: {"max_samples": NOT_NEGATIVE},
}

# What a verb cannot do without, and an example of it.
_EXAMPLES = {
    "output": "--output runs/NAME",
    "data.path": "--data FILE, a hub id or builtin:toytalk",
    "model.name": "--model.name builtin:tiny, a folder or a hub id",
    "model.adapter": "--model.adapter FOLDER, the adapter to merge",
    "reward": "--reward FOLDER, module:function or rule:NAME",
    "policies": "--policies NAME=FOLDER …",
}
NEEDED: dict[type, tuple[str, ...]] = {
    s.RunConfig: ("output", "data.path", "model.name"),
    s.PPOConfig: ("reward",),
    s.BestOfNConfig: ("output", "data.path", "model.name", "reward"),
    s.EvaluateConfig: ("output", "data.path", "policies"),
    s.ScoreConfig: ("data.path", "model.name"),
    s.PrepareConfig: ("output", "data.path"),
    s.GenerateConfig: ("model.name",),
    s.ChatConfig: ("model.name",),
    s.MergeConfig: ("output", "model.name", "model.adapter"),
}

Values = Mapping[str, Any]  # by dotted key


@dataclass(frozen=True, slots=True)
class Contradiction:
    """Settings that cannot both hold, and the way out."""

    keys: tuple[str, ...]
    wrong: Callable[[Values], bool]
    why: str


_TRAINING = (
    Contradiction(
        ("train.early_stopping", "train.evaluate_every"),
        lambda v: v["train.early_stopping"] > 0 and v["train.evaluate_every"] == 0,
        "early stopping counts evaluations and there are none before the end; set train.evaluate_every",
    ),
    Contradiction(
        ("data.path", "data.test_path"),
        lambda v: bool(v["data.path"]) and v["data.path"] == v["data.test_path"],
        "held-out data would be the training data; leave data.test_path empty to split by prompt",
    ),
)
CONTRADICTIONS: dict[type, tuple[Contradiction, ...]] = {
    s.RunConfig: _TRAINING,
    s.DPOConfig: (
        Contradiction(
            ("loss", "label_smoothing"),
            lambda v: v["loss"] == "ipo" and v["label_smoothing"] > 0,
            "IPO has no label smoothing and would ignore it; use loss sigmoid (cDPO) or robust",
        ),
    ),
    s.PPOConfig: (
        Contradiction(
            ("advantage", "sampling.n"),
            lambda v: v["advantage"] in ("rloo", "grpo") and v["sampling.n"] < 2,
            "it compares the samples of one prompt and needs sampling.n of 2 or more; or use advantage gae",
        ),
        Contradiction(
            ("kl.place", "kl.estimator"),
            lambda v: v["kl.place"] == "loss" and v["kl.estimator"] == "k1",
            "k1 in the loss has an expected gradient of 0 and would not hold the policy; use k2, k3 or exact",
        ),
        Contradiction(
            ("kl.place", "kl.estimator"),
            lambda v: v["kl.place"] == "reward" and v["kl.estimator"] != "k1",
            "a KL in the reward is k1 on every token; for the other estimators set kl.place loss",
        ),
        Contradiction(
            ("kl.controller", "kl.coefficient"),
            lambda v: v["kl.controller"] == "adaptive" and v["kl.coefficient"] == 0,
            "the adaptive controller multiplies the coefficient, so 0 stays 0; start above 0",
        ),
        Contradiction(
            ("sampling.top_p", "sampling.top_k", "allow_truncated_sampling"),
            lambda v: (v["sampling.top_p"] < 1 or v["sampling.top_k"] > 0) and not v["allow_truncated_sampling"],
            "the learner cannot reproduce a truncated sampler's log-probs, so ratio and KL would be wrong; "
            "set top_p 1 and top_k 0, or accept it with allow_truncated_sampling true",
        ),
        Contradiction(
            ("sampling.temperature",),
            lambda v: v["sampling.temperature"] == 0,
            "PPO learns from differences between samples and temperature 0 gives one answer; use a value above 0",
        ),
        Contradiction(
            ("minibatches", "train.batch_size"),
            lambda v: v["minibatches"] > v["train.batch_size"],
            "a minibatch would hold no prompt; minibatches may be train.batch_size at most",
        ),
        Contradiction(
            ("critic_warmup", "train.max_steps"),
            lambda v: 0 < v["train.max_steps"] <= v["critic_warmup"],
            "the run would end before the policy learns; make train.max_steps greater than critic_warmup",
        ),
    ),
    s.BestOfNConfig: (
        Contradiction(
            ("sampling.n",),
            lambda v: v["sampling.n"] < 2,
            "the best of one is that one; use 2 or more",
        ),
        Contradiction(
            ("sampling.temperature",),
            lambda v: v["sampling.temperature"] == 0,
            "temperature 0 gives n equal answers; use a value above 0",
        ),
    ),
    s.GenerateConfig: (
        Contradiction(
            ("prompt", "data.path"),
            lambda v: bool(v["prompt"]) == bool(v["data.path"]),
            "give either --prompt TEXT or --data FILE",
        ),
    ),
}


def validate(config: Any) -> None:
    """Raises UserError listing every value out of range, everything missing and every contradiction."""
    values, fields = flatten(config), schema(type(config)).fields
    owners = [owner for owner in type(config).__mro__[:-1]]
    problems = []
    for key, value in values.items():
        problem = value_problem(fields[key].owner, fields[key].name, value)
        if problem:
            problems.append(f"{key}: {problem}; given {shown(value)}")
    if not problems:  # a contradiction between values that are wrong anyway says nothing
        missing = [key for owner in owners for key in NEEDED.get(owner, ()) if not values[key]]
        problems += [f"{key} is needed; give {_EXAMPLES[key]}" for key in missing]
        for rule in (rule for owner in owners for rule in CONTRADICTIONS.get(owner, ())):
            if rule.wrong(values):
                given = ", ".join(f"{key}={shown(values[key])}" for key in rule.keys)
                problems.append(f"{given}: {rule.why}")
    if problems:
        raise UserError("\n  ".join(problems))


def value_problem(owner: type, name: str, value: Any) -> str | None:
    """What is wrong with one value, or None."""
    for declared in owner.__mro__[:-1]:
        rule = VALUES.get(declared, {}).get(name)
        if rule is not None:
            return rule.problem(value)
    return None


def expected(owner: type, name: str) -> str:
    """The range of a key in words, '' when anything of its type will do."""
    for declared in owner.__mro__[:-1]:
        rule = VALUES.get(declared, {}).get(name)
        if isinstance(rule, Range):
            return rule.text
        if isinstance(rule, OneOf):
            return " | ".join(name or '""' for name in rule.names)
        if isinstance(rule, Matches | EachMatches):
            return rule.expected
    return ""


def shown(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)
