"""The verbs of the command line, with the config class and the function of ``concordant`` for each verb."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args

from concordant.core.errors import UserError, unknown_name


@dataclass(frozen=True, slots=True)
class Verb:
    """One verb. The config class is given by name and not imported, so that ``concordant --help`` starts fast."""

    config: str  # class in concordant.config.stages
    function: str  # its name in the library, concordant.FUNCTION
    summary: str
    options: str  # of the example that its help page shows
    also: str = ""  # what others call it

    def config_class(self) -> type:
        stages = importlib.import_module("concordant.config.stages")
        return getattr(stages, self.config)


VERBS: dict[str, Verb] = {
    "prepare": Verb(
        "PrepareConfig",
        "prepare",
        "turn preference data into sft, rm and rl sets, with a data card",
        "--data pairs.jsonl --output data/mine",
    ),
    "sft": Verb(
        "SFTConfig",
        "sft",
        "imitate good answers",
        "--model.name builtin:small --data data/mine --responses chosen --output runs/sft",
    ),
    "reward": Verb(
        "RewardConfig",
        "reward",
        "train a reward model on preference pairs",
        "--model.name runs/sft/model --data data/mine --output runs/reward",
        also="rm",
    ),
    "score": Verb(
        "ScoreConfig",
        "score",
        "score answers with a reward model",
        "--model.name runs/reward/model --data answers.jsonl --output scores.jsonl",
    ),
    "dpo": Verb(
        "DPOConfig",
        "dpo",
        "train a policy on pairs directly, without a reward model",
        "--model.name runs/sft/model --data data/mine --beta 0.3 --output runs/dpo",
    ),
    "ppo": Verb(
        "PPOConfig",
        "ppo",
        "train a policy on the rewards of its own answers",
        "--model.name runs/sft/model --data data/mine --reward runs/reward/model --output runs/ppo",
        also="rl",
    ),
    "distill": Verb(
        "DistillConfig",
        "distill",
        "let a student learn the answers of a teacher with the same tokenizer",
        "--model.name runs/sft-small/model --teacher runs/ppo/model --data data/mine --output runs/small",
        also="gkd",
    ),
    "best-of-n": Verb(
        "BestOfNConfig",
        "best_of_n",
        "sample n answers for each prompt and keep the best",
        "--model.name runs/sft/model --data data/mine --reward runs/reward/model --output runs/best",
    ),
    "collect": Verb(
        "CollectConfig",
        "collect",
        "sample pairs of answers from a policy and have them labelled",
        "--model.name runs/ppo/model --data data/mine --judge runs/judge/model --output runs/pairs",
    ),
    "evaluate": Verb(
        "EvaluateConfig",
        "evaluate",
        "compare policies on the same held-out prompts; writes a report",
        "--policies sft=runs/sft/model dpo=runs/dpo/model --data data/mine --output runs/report",
    ),
    "generate": Verb(
        "GenerateConfig",
        "generate",
        "answer prompts",
        "--model.name runs/dpo/model --prompt 'Where does the owl live?'",
    ),
    "chat": Verb(
        "ChatConfig",
        "chat",
        "talk with a policy in the terminal",
        "--model.name runs/dpo/model",
    ),
    "serve": Verb(
        "ServeConfig",
        "open_server",
        "serve a policy, its adapters and a reward model to OpenAI's clients",
        "--model.name runs/dpo/model --reward runs/reward/model --port 8000",
    ),
    "course": Verb(
        "CourseConfig",
        "take_course",
        "exercises of RLHF: write a function, and have your file checked",
        "check 2 exercise_2.py",
    ),
    "studio": Verb(
        "StudioConfig",
        "open_studio",
        "watch runs, start them and learn how they work, in a browser",
        "--runs runs",
    ),
    "doctor": Verb(
        "DiagnoseConfig",
        "diagnose",
        "find what is wrong with a run, data, a model or this machine",
        "runs/dpo",
    ),
    "plan": Verb(
        "PlanConfig",
        "plan",
        "say how much memory, time and money a run needs, and on how many GPUs it fits",
        "--model.name Qwen3-8B --method ppo --hardware h100-80gb",
    ),
    "judge": Verb(
        "JudgeConfig",
        "judge",
        "let a model, a server or a function label pairs and answers",
        "--data pairs.jsonl --judge http://127.0.0.1:8000/v1 --endpoint.model qwen --output data/judged",
    ),
    "constitution": Verb(
        "ConstitutionConfig",
        "constitution",
        "let a policy revise its answers by written principles, for SFT",
        "--model.name runs/sft/model --data data/mine --principles builtin --output data/revised",
    ),
    "audit": Verb(
        "AuditConfig",
        "audit",
        "look for the flaws of a reward; writes a page",
        "runs/reward/model --data data/mine --output runs/audit",
    ),
    "votes": Verb(
        "VotesConfig",
        "keep_votes",  # concordant.votes is the package
        "let people vote on pairs of answers: pairs in, raters, state, votes out",
        "export --output pairs.jsonl",
    ),
    "merge": Verb(
        "MergeConfig",
        "merge",
        "merge a LoRA adapter into its base model",
        "--model.name runs/sft/model --model.adapter adapters/mine --output models/merged",
    ),
    "average": Verb(
        "AverageConfig",
        "average",
        "average the weights of reward models of one start",
        "--models runs/reward-1/model runs/reward-2/model --output models/average",
    ),
    "push": Verb(
        "PushConfig",
        "push",
        "send a model or an adapter to a hub",
        "runs/dpo/model owner/my-model --dry_run",
    ),
}


# Keys whose values are methods of a verb. Somebody who knows the method may take it for a verb.
_METHOD_KEYS = (("dpo", "loss"), ("ppo", "advantage"), ("ppo", "policy_loss"), ("distill", "divergence"))


def verb_named(name: str) -> Verb:
    if name not in VERBS:
        raise unknown_verb(name, VERBS)
    return VERBS[name]


def unknown_verb(name: str, known: Iterable[str]) -> UserError:
    """The error for a verb that does not exist. For a method it says which commands do it, else the closest verb."""
    wanted, commands = _plain(name), commands_of_methods()
    found = [command for method, command in commands.items() if _plain(method) == wanted]
    found = found or [command for method, command in commands.items() if _plain(method).startswith(f"{wanted}_")]
    return unknown_name("verb", name, known, f" This method is: {' or '.join(found)}." if found else "")


@cache
def commands_of_methods() -> Mapping[str, str]:
    """The beginning of the command that does each method: of presets, of keys and of other names of verbs."""
    from concordant.config.fields import schema
    from concordant.config.names import METHODS
    from concordant.config.presets import method_names

    found = {verb.also: f"concordant {name}" for name, verb in VERBS.items() if verb.also}
    found |= {method: f"concordant {verb} --preset {method}" for verb in METHODS for method in method_names(verb)}
    for verb, key in _METHOD_KEYS:
        for method in get_args(schema(VERBS[verb].config_class()).fields[key].kind):
            found.setdefault(method, f"concordant {verb} --{key} {method}")
    return found


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")


def call(name: str, config: Any) -> Path | None:
    """Run the verb ``name`` with ``config``. Returns the path of its result, or None. This imports torch."""
    library = importlib.import_module("concordant")  # finds the function's module by the function's name
    function: Callable[[Any], Path | None] = getattr(library, verb_named(name).function)
    return function(config)
