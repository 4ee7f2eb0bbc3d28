"""The verbs of the command line: which config each takes and which function of ``concordant`` does it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from concordant.core.errors import unknown_name


@dataclass(frozen=True, slots=True)
class Verb:
    """One stage. The config is named, not imported, so that ``concordant --help`` loads nothing."""

    config: str  # class in concordant.config.stages
    function: str  # its name in the library, concordant.FUNCTION
    summary: str

    def config_class(self) -> type:
        stages = importlib.import_module("concordant.config.stages")
        return getattr(stages, self.config)


VERBS: dict[str, Verb] = {
    "prepare": Verb("PrepareConfig", "prepare", "turn preference data into sft, rm and rl sets, with a data card"),
    "sft": Verb("SFTConfig", "sft", "imitate good answers"),
    "reward": Verb("RewardConfig", "reward", "learn from pairs which answer people prefer"),
    "score": Verb("ScoreConfig", "score", "score answers with a reward model"),
    "dpo": Verb("DPOConfig", "dpo", "learn from pairs directly, without a reward model"),
    "ppo": Verb("PPOConfig", "ppo", "learn from a reward by trying"),
    "best-of-n": Verb("BestOfNConfig", "best_of_n", "sample n answers a prompt and keep the best"),
    "evaluate": Verb("EvaluateConfig", "evaluate", "compare policies on the same held-out prompts; writes a report"),
    "generate": Verb("GenerateConfig", "generate", "answer prompts"),
    "chat": Verb("ChatConfig", "chat", "talk with a policy in the terminal"),
    "doctor": Verb("DiagnoseConfig", "diagnose", "say what ails a run, data, a model or this machine, and the cure"),
    "merge": Verb("MergeConfig", "merge", "merge a LoRA adapter into its base model"),
}


def verb_named(name: str) -> Verb:
    if name not in VERBS:
        raise unknown_name("verb", name, VERBS)
    return VERBS[name]


def call(name: str, config: Any) -> Path | None:
    """Does ``name`` with ``config``; returns what it wrote, if it wrote something. Imports torch on the way."""
    library = importlib.import_module("concordant")  # which finds the function's module when asked for the name
    function: Callable[[Any], Path | None] = getattr(library, verb_named(name).function)
    return function(config)
