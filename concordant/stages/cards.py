"""The facts of the model card of a run: what it started from, on which data, and how it was trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from concordant.config.fields import flatten
from concordant.config.names import NEEDS_CRITIC
from concordant.config.specs import place_of
from concordant.config.stages import DistillConfig, PPOConfig, RunConfig
from concordant.data.splits import Loaded
from concordant.models.card import CARD, is_hub_id, origin_of, section, short
from concordant.runs.atomic import write_text
from concordant.runs.identity import package_version
from concordant.runs.inputs import HARMLESS, RESULTS, ROUNDING
from concordant.runs.names import ADAPTER, MODEL
from concordant.training.defaults import Method

_TITLES: Mapping[Method, str] = {
    "sft": "{base}, fine-tuned on {data}",
    "reward": "Reward model from {base}, trained on {data}",
    "dpo": "{base}, trained by DPO on {data}",
    "ppo": "{base}, trained by {trained_by} on {data}",
    "distill": "{base}, distilled from {teacher} on {data}",
}
_KINDS: Mapping[Method, str] = {
    "sft": "A causal language model that imitates the answers of its data.",
    "reward": "A reward model: it gives each answer a number, higher is better. Only differences mean something.",
    "dpo": "A causal language model that learnt from pairs of answers which answer people prefer.",
    "ppo": "A causal language model that learnt from the reward of its own answers.",
    "distill": "A causal language model that learnt to answer as a larger one does.",
}

# Shown also where they have their default value.
_ADVANTAGES = {"dr_grpo": "Dr. GRPO", "remax": "ReMax"}  # others are written in capitals
_ALWAYS = ("seed", "train.max_steps", "train.epochs", "train.batch_size", "train.learning_rate", "train.schedule")
_NOT_TRAINING = ("data.", "doctor.", "model.name", "model.adapter", "model.trust_remote_code")


def card_of(config: RunConfig, method: Method, loaded: Loaded[Any]) -> dict[str, Any]:
    """The facts that are known before the first step; the loop adds the results."""
    base, data = short(config.model.name), short(config.data.path)
    advantage = config.advantage if isinstance(config, PPOConfig) else "gae"
    trained_by = "PPO" if advantage in NEEDS_CRITIC else _ADVANTAGES.get(advantage, advantage.upper())
    teacher = short(config.teacher) if isinstance(config, DistillConfig) else ""
    return {
        "title": _TITLES[method].format(base=base, data=data, trained_by=trained_by, teacher=teacher),
        "base_model": origin_of(config.model.name),
        "datasets": [config.data.path] if is_hub_id(config.data.path) else [],
        "tags": [method],
        "description": _KINDS[method],
        "start": {"model": base, **({"adapter": short(config.model.adapter)} if config.model.adapter else {})},
        "data": {
            "source": data,
            "read as": ", ".join(loaded.formats),
            "records trained on": f"{len(loaded.train):,}",
            "records held out": f"{len(loaded.test):,}",
        },
        "training": {"tool": f"`concordant {method}` {package_version()}", **_settings(config)},
    }


def _settings(config: RunConfig) -> dict[str, Any]:
    """The settings that can change a number of the run, where they differ from the verb's defaults."""
    usual, found = flatten(type(config)()), {}
    for key, value in flatten(config).items():
        hidden = key in HARMLESS | RESULTS | ROUNDING or key.startswith(_NOT_TRAINING)
        hidden |= key == "train.epochs" and config.train.max_steps > 0
        if not hidden and (key in _ALWAYS or value != usual[key]):
            found[key] = _shared(value)
    return found


def _shared(value: Any) -> Any:
    """A value without the folders of this machine."""
    if isinstance(value, list):
        return ", ".join(map(str, map(_shared, value)))
    if isinstance(value, str) and "/" in value and (path := place_of(value)):
        return value.replace(path, short(path), 1)
    return value


def add_results(run: Path, title: str, numbers: Mapping[str, Any]) -> None:
    """Add a table to the cards of a finished run."""
    for card in (run / name / CARD for name in (MODEL, ADAPTER)):
        if card.is_file():
            write_text(card, f"{card.read_text(encoding='utf-8')}\n{section(title, numbers)}\n")
