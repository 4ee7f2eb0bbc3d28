"""Limits of single values: ranges of numbers and forms of text. Keys that take one of a few names are in names.py."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, get_args

from concordant.config import stages as s
from concordant.config.cluster import ApartConfig, ClusterConfig
from concordant.config.data import DataConfig
from concordant.config.environment import EnvironmentConfig
from concordant.config.judging import EndpointConfig
from concordant.config.model import LoraConfig, ModelConfig
from concordant.config.names import RATES_ANSWERS, PreferenceLossName, TrackerName
from concordant.config.plan import PlanConfig, ShapeConfig
from concordant.config.retain import RetainConfig
from concordant.config.sampling import SamplingConfig
from concordant.config.scoring import ConstraintConfig, ScoringConfig
from concordant.config.specs import named, runs_of, weights_of
from concordant.config.train import TrainConfig
from concordant.core.errors import UserError, nearest


@dataclass(frozen=True, slots=True)
class Range:
    """The range of a number in the usual notation, such as ``[0, 1)``: a square bracket includes the end.

    NaN is in no range.
    """

    text: str

    def problem(self, value: Any) -> str | None:
        """The problem of ``value``; None if there is no problem."""
        low, high = (float(end) for end in self.text[1:-1].replace("∞", "inf").split(","))
        above = low <= value if self.text[0] == "[" else low < value
        below = value <= high if self.text[-1] == "]" else value < high
        return None if above and below else f"expected a number in {self.text}"


@dataclass(frozen=True, slots=True)
class Matches:
    """A text of a certain form."""

    pattern: str
    expected: str

    def problem(self, value: Any) -> str | None:
        return None if re.fullmatch(self.pattern, value) else f"expected {self.expected}"


@dataclass(frozen=True, slots=True)
class NamedPaths:
    """A list of NAME=PATH, each name once. With ``policies`` a path may be several runs, and best_of_n:N:PATH."""

    policies: bool = False

    def problem(self, value: Any) -> str | None:
        try:
            for path in named(value).values():
                if self.policies:
                    runs_of(path)
        except UserError as problem:
            return str(problem)
        return None


@dataclass(frozen=True, slots=True)
class Arguments:
    """A list of NAME=VALUE, each name once."""

    example: str

    def problem(self, value: Any) -> str | None:
        names = [item.partition("=")[0] for item in value]
        wrong = [item for item, name in zip(value, names, strict=True) if "=" not in item or not name.isidentifier()]
        if wrong:
            return f'"{wrong[0]}" is not NAME=VALUE, e.g. {self.example}'
        twice = [name for name in names if names.count(name) > 1]
        return f'"{twice[0]}" is given twice' if twice else None


@dataclass(frozen=True, slots=True)
class Texts:
    """A list of texts, none of them empty or with half a character, which no decoded text contains."""

    def problem(self, value: Any) -> str | None:
        if not all(value):
            return "expected texts that are not empty, because every answer contains the empty one"
        halves = any("\ud800" <= letter <= "\udfff" for text in value for letter in text)
        return "expected texts of whole Unicode characters" if halves else None


@dataclass(frozen=True, slots=True)
class Names:
    """A list of known names, each once. The problem names the wrong one among the given names."""

    known: tuple[str, ...]

    def problem(self, value: Any) -> str | None:
        for name in value:
            if name not in self.known:
                guess = nearest(name, self.known)
                return f'expected some of {", ".join(self.known)}; given "{name}"{"." if guess else ""}{guess}'
        twice = [name for name in value if value.count(name) > 1]
        return f'"{twice[0]}" is given twice' if twice else None


@dataclass(frozen=True, slots=True)
class Weights:
    """A list of NAME=WEIGHT: known names, each once, with weights above 0."""

    known: tuple[str, ...]

    def problem(self, value: Any) -> str | None:
        try:
            weights = weights_of(value)
        except UserError as problem:
            return str(problem)
        return Names(self.known).problem(list(weights))


Rule = Names | Range | Matches | NamedPaths | Arguments | Texts | Weights

_HUB_ID = Matches(r"([\w-][\w.-]*/[\w-][\w.-]*)?", "OWNER/NAME, an id on the hub")
POSITIVE, NOT_NEGATIVE, COUNT = Range("(0, ∞)"), Range("[0, ∞)"), Range("[1, ∞)")
DIMENSION, TOKENS = Range("[0, 100000000]"), Range("[1, 100000000]")  # of a shape; of a text

VALUES: dict[type, dict[str, Rule]] = {
    DataConfig: {
        "test_fraction": Range("(0, 1)"),
        "max_samples": NOT_NEGATIVE,
        "max_prompt_tokens": COUNT,
        "max_response_tokens": COUNT,
        "template_args": Arguments("enable_thinking=false"),
    },
    LoraConfig: {"rank": NOT_NEGATIVE, "alpha": POSITIVE, "dropout": Range("[0, 1)")},
    ModelConfig: {
        "device": Matches(r"auto|cpu|cuda(:\d+)?", "auto, cpu, cuda or cuda:NUMBER"),
    },
    SamplingConfig: {
        "n": Range("[1, 1000000]"),
        "temperature": NOT_NEGATIVE,
        "top_p": Range("(0, 1]"),
        "top_k": NOT_NEGATIVE,
        "min_p": Range("[0, 1]"),
        "repetition_penalty": POSITIVE,
        "min_new_tokens": NOT_NEGATIVE,
        "max_new_tokens": COUNT,
        "stop_strings": Texts(),
        "slots": COUNT,
    },
    TrainConfig: {
        "max_steps": NOT_NEGATIVE,
        "epochs": Range("[0, 1000000]"),  # times the rows of the data it stays a number
        "batch_size": NOT_NEGATIVE,
        "micro_batch_tokens": NOT_NEGATIVE,
        "learning_rate": NOT_NEGATIVE,
        "min_rate_fraction": Range("[0, 1)"),
        "warmup_fraction": Range("[0, 1]"),
        "warmup_steps": NOT_NEGATIVE,
        "weight_decay": NOT_NEGATIVE,
        "beta1": Range("[0, 1)"),
        "beta2": Range("[0, 1)"),
        "lora_plus": POSITIVE,
        "max_grad_norm": NOT_NEGATIVE,
        "log_every": COUNT,
        "evaluate_every": Range("[-1, ∞)"),
        "save_every": NOT_NEGATIVE,
        "save_minutes": NOT_NEGATIVE,
        "keep_last": COUNT,
        "early_stopping": NOT_NEGATIVE,
        "threads": Range("[0, 1024]"),  # with 100,000 PyTorch ends the process by a segmentation fault
        "tracker": Names(get_args(TrackerName)),
    },
    ClusterConfig: {
        "workers": NOT_NEGATIVE,
        "tensor": COUNT,
        "pipeline": COUNT,
        "shards": NOT_NEGATIVE,
        "timeout": POSITIVE,
        "restarts": NOT_NEGATIVE,
        "max_lag": NOT_NEGATIVE,
    },
    RetainConfig: {"mix": NOT_NEGATIVE, "batch_size": COUNT, "ewc": NOT_NEGATIVE, "fisher_windows": COUNT},
    ApartConfig: dict.fromkeys(("generator", "reference", "reward", "critic"), NOT_NEGATIVE),
    s.RewardConfig: {
        "heads": Range("[1, 1000]"),
        "margin": NOT_NEGATIVE,
        "temperature": POSITIVE,
        "label_smoothing": Range("[0, 0.5)"),
        "centering": NOT_NEGATIVE,
        "lm_coefficient": NOT_NEGATIVE,
        "validation_fraction": Range("[0, 1)"),
    },
    s.DPOConfig: {
        "beta": POSITIVE,
        "label_smoothing": Range("[0, 0.5)"),
        "margin": NOT_NEGATIVE,
        "plus": Weights(tuple(n for n in get_args(PreferenceLossName) if n not in RATES_ANSWERS)),
        "lm_coefficient": NOT_NEGATIVE,
        "f_alpha": Range("[-10, 10]"),
        "desirable_weight": POSITIVE,
        "undesirable_weight": POSITIVE,
        "evaluation_slots": COUNT,
    },
    s.DistillConfig: {"on_policy": Range("[0, 1]"), "beta": Range("(0, 1)"), "temperature": POSITIVE},
    s.KLConfig: {
        "coefficient": NOT_NEGATIVE,
        "target": POSITIVE,
        "horizon": COUNT,
    },
    ScoringConfig: {"deviations": NOT_NEGATIVE},
    ConstraintConfig: {
        "limit": Range("(-∞, ∞)"),
        "multiplier": Range("[0.01, ∞)"),
        "rate": NOT_NEGATIVE,
        "most": Range("[0.01, ∞)"),
    },
    EnvironmentConfig: {"turns": Range("[1, 1000]"), "reply_tokens": COUNT, "timeout": NOT_NEGATIVE},
    s.PPOConfig: {
        "stop_disagreement": NOT_NEGATIVE,
        "reward_timeout": NOT_NEGATIVE,
        "reward_clip": NOT_NEGATIVE,
        "missing_eos_penalty": NOT_NEGATIVE,
        "overlong_penalty": NOT_NEGATIVE,
        "overlong_buffer": NOT_NEGATIVE,
        "dynamic_sampling": Range("[0, 100]"),
        "clip_high": NOT_NEGATIVE,
        "clip_dual": Range("(1, ∞)"),
        "gamma": Range("[0, 1]"),
        "lam": Range("[0, 1]"),
        "clip": Range("(0, 1)"),
        "value_clip": NOT_NEGATIVE,
        "value_coefficient": NOT_NEGATIVE,
        "inner_epochs": COUNT,
        "minibatches": COUNT,
        "stop_kl": NOT_NEGATIVE,
        "importance_cap": NOT_NEGATIVE,
        "replay": NOT_NEGATIVE,
        "critic_learning_rate": NOT_NEGATIVE,
        "critic_warmup": NOT_NEGATIVE,
    },
    s.BestOfNConfig: {"reward_timeout": NOT_NEGATIVE},
    s.CollectConfig: {"pairs": COUNT, "round": COUNT, "max_answer_tokens": COUNT},
    s.EvaluateConfig: {
        "reward_timeout": NOT_NEGATIVE,
        "policies": NamedPaths(policies=True),
        "runs": NamedPaths(),
        "max_prompts": COUNT,
        "side_by_side": NOT_NEGATIVE,
        "bootstrap": COUNT,
    },
    s.PrepareConfig: {"max_samples": NOT_NEGATIVE},
    s.ServeConfig: {
        "adapters": NamedPaths(),
        "port": Range("[0, 65535]"),
        "slots": Range("[1, 4096]"),
        "context": Range("[2, 100000000]"),
        "queue": COUNT,
    },
    s.CourseConfig: {"exercise": NOT_NEGATIVE},
    s.PushConfig: {"id": _HUB_ID, "base": _HUB_ID},
    EndpointConfig: {
        "key_variable": Matches(r"\w*", "the name of an environment variable, and not the key itself"),
        "parallel": Range("[1, 256]"),
        "timeout": POSITIVE,
        "retries": NOT_NEGATIVE,
        "wait": NOT_NEGATIVE,
        "longest_wait": NOT_NEGATIVE,
        "max_calls": NOT_NEGATIVE,
        "max_tokens": NOT_NEGATIVE,
    },
    s.StudioConfig: {"port": Range("[0, 65535]"), "requests_per_second": POSITIVE},
    s.JudgeConfig: {"margin": NOT_NEGATIVE, "max_answer_tokens": COUNT},
    s.ConstitutionConfig: {"revisions": COUNT, "max_answer_tokens": COUNT, "max_prompts": NOT_NEGATIVE},
    s.VotesConfig: {
        "arena": Matches(r"[\w.-]{1,80}", "a name of up to 80 letters, digits, dots, hyphens and underscores"),
        "raters_per_pair": Range("[1, 100]"),
        "gold_share": Range("[0, 1]"),
        "lease": POSITIVE,
        "answers": NamedPaths(),
        "rater": Matches(r"[^\x00-\x1f\x7f]{0,80}", "a name of up to 80 printable characters"),
        "margin": NOT_NEGATIVE,
    },
    s.AuditConfig: {"reward_timeout": NOT_NEGATIVE, "max_pairs": COUNT, "bootstrap": COUNT},
    ShapeConfig: {
        name: DIMENSION for name in ("vocabulary", "hidden", "layers", "heads", "kv_heads", "head_size", "mlp")
    },
    PlanConfig: {
        "gpus": Range("[0, 100000]"),
        "most_gpus": Range("[1, 100000]"),
        "tensor": NOT_NEGATIVE,
        "pipeline": NOT_NEGATIVE,
        "prompt_tokens": TOKENS,
        "response_tokens": TOKENS,
        "batch_size": Range("[1, 1000000]"),
        "micro_batch_tokens": NOT_NEGATIVE,
        "samples": Range("[1, 10000]"),
        "inner_epochs": Range("[1, 1000]"),
        "minibatches": Range("[1, 1000]"),
        "slots": COUNT,
        "steps": COUNT,
        "assume": Arguments("reached=0.4"),
    },
}
