"""The keys whose values name files or folders. No other key's value is ever looked for on the disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from concordant.config import stages as s
from concordant.config.data import DataConfig
from concordant.config.fields import schema
from concordant.config.model import ModelConfig
from concordant.config.retain import RetainConfig
from concordant.config.scoring import ConstraintConfig
from concordant.config.specs import is_votes, place_of


def _plain(text: str) -> list[str]:
    return [text]


def _weighted(text: str) -> list[str]:
    """Of ``name=PATH=weight``, where name and weight may be missing; a path may itself hold an equals sign."""
    return list(dict.fromkeys([text, place_of(text)]))


def _unless_votes(text: str) -> list[str]:
    """Of a judge. A file of votes grows while people vote, and a stage that waits for them must stay the same stage."""
    return [] if is_votes(text) else [text]


def _named(text: str) -> list[str]:
    """Of ``name=PATH``, ``name=PATH,PATH`` and ``name=best_of_n:4:PATH``; a path may itself hold a comma."""
    value = text.partition("=")[2]
    given = [value, *(value.split(",") if "," in value else [])]
    return [path.split(":", 2)[-1] if path.startswith("best_of_n:") else path for path in given]


# By the class that declares the key: how a path stands in its text.
_KEYS: dict[type, dict[str, Callable[[str], list[str]]]] = {
    DataConfig: {"path": _plain, "test_path": _plain},
    ModelConfig: {"name": _plain, "adapter": _plain},
    RetainConfig: {"text": _plain},
    s.DPOConfig: {"reference": _plain},
    s.DistillConfig: {"teacher": _plain},
    s.PPOConfig: {"reference": _plain, "reward": _weighted},
    ConstraintConfig: {"cost": _weighted},
    s.BestOfNConfig: {"reward": _weighted},
    s.CollectConfig: {"judge": _unless_votes, "earlier": _plain, "principles": _plain},
    s.EvaluateConfig: {
        "policies": _named,
        "runs": _named,
        "reward": _weighted,
        "judge": _weighted,
        "perplexity_text": _plain,
    },
    s.PrepareConfig: {"compare_with": _plain},
    s.DiagnoseConfig: {"target": _plain},
    s.StudioConfig: {"runs": _plain},
    s.PlanConfig: {"reward_model": _plain, "teacher": _plain},
    s.AverageConfig: {"models": _plain},
    s.PushConfig: {"folder": _plain},
    s.ServeConfig: {"adapters": _named, "reward": _plain, "keys": _plain},
    s.AuditConfig: {"reward": _weighted, "judge": _weighted, "templates": _plain},
    s.JudgeConfig: {"judge": _plain, "principles": _plain},
    s.VotesConfig: {
        "database": _plain,
        "instructions": _plain,
        "answers": _named,
        "scores": _plain,
        "rewards": _plain,
    },
    s.ConstitutionConfig: {"critic": _plain, "principles": _plain},
}


def paths_of(config_class: type, values: Mapping[str, Any]) -> dict[str, list[str]]:
    """The texts in ``values``, by dotted key, that can be paths; whether something is there is not looked at."""
    found: dict[str, list[str]] = {}
    for key, known in schema(config_class).fields.items():
        form = _KEYS.get(known.owner, {}).get(known.name)
        if form is None or key not in values:
            continue
        texts = values[key] if isinstance(values[key], list) else [values[key]]
        found[key] = [path for text in texts for path in form(text) if path and "${" not in path]
    return found
