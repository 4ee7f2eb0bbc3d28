"""The pipelines that the page "Votes" starts: policies answer for a new arena, and votes become a policy.

Each is an ordinary pipeline file, which `concordant run` runs in a process of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from concordant.core.errors import UserError
from concordant.runs.logs import read_json
from concordant.runs.names import PIPELINE, REPORT_JSON

Policy = tuple[str, Path]  # name, model folder
Method = Literal["dpo", "ppo"]
ANSWERS = "answers.jsonl"  # what the verb generate writes in a pipeline
REPORT = "report"  # the stage whose report shows where the new policy cheats
_VOTES = {"path": "${votes}", "test_fraction": 0.1}  # of few votes, few are held out
_SHOWN = ("reward_mean", "gold_mean", "judge_mean", "length_mean", "repetition", "kl", "win_rate")


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where prompts come from, how long a prompt and an answer may be, and in what precision models work."""

    data: str
    prompts: int  # how many are answered
    prompt_tokens: int
    answer_tokens: int
    precision: str  # of the models, as the policy was trained

    def model(self, name: str) -> dict[str, Any]:
        return {"name": name, "precision": self.precision}

    def keys(self, rows: int = 0) -> dict[str, Any]:
        """``rows``: how many are read; 0 reads all."""
        return {"path": self.data, "max_samples": rows}

    def plan(self, seed: int, stages: Mapping[str, Any]) -> dict[str, Any]:
        """The pipeline. The lengths stand outside the stages, because some stages have no use for them."""
        limits = {"max_prompt_tokens": self.prompt_tokens, "max_response_tokens": self.answer_tokens}
        return {"seed": seed, "data": limits, "stages": stages}


def arena_plan(
    database: str, arena: Mapping[str, Any], policies: Sequence[Policy], source: Source, seed: int
) -> dict[str, Any]:
    """The policies answer the same prompts, and their answers become pairs of the arena.

    ``arena``: the keys of ``concordant votes import`` that an arena is made with.
    """
    stages = _answers(policies, source, 2 if len(policies) == 1 else 1, seed)
    files = [f"{name}=${{{stage}.run}}/{ANSWERS}" for (name, _), stage in zip(policies, stages, strict=True)]
    stages["pairs"] = {"verb": "votes", "action": "import", "database": database, **arena, "answers": files}
    return source.plan(seed, stages)


def policy_plan(
    database: str,
    arena: str,
    start: Policy,
    new: str,
    method: Method,
    source: Source,
    steps: Mapping[str, int],
    seed: int = 0,
) -> dict[str, Any]:
    """Votes -> reward model -> a new policy by ``method`` -> pairs of its answers in the arena, and a report.

    ``start`` is the policy that learns, and the one that the new policy ``new`` is compared with. ``steps``: of the
    reward model (``reward``) and of the policy (``policy``).
    """
    model = source.model(str(start[1]))
    train = {"batch_size": 8, "schedule": "cosine", "evaluate_every": 0}
    stages: dict[str, Any] = {
        "votes": {"action": "export", "database": database, "arena": arena},
        "reward": {
            "model": model,
            "data": _VOTES,
            "train": train | {"max_steps": steps["reward"]},
        },
    }
    if method == "dpo":
        learnt: dict[str, Any] = {"data": _VOTES, "strength": "label"}
    else:
        sampling = {"n": 4, "max_new_tokens": source.answer_tokens}
        learnt = {"data": source.keys(), "reward": ["${reward}"], "advantage": "rloo", "sampling": sampling}
    stages[method] = {"model": model, **learnt, "train": train | {"max_steps": steps["policy"]}}
    both = [(start[0], start[1]), (new, Path(f"${{{method}}}"))]
    answers = _answers(both, source, 1, seed)
    stages |= answers
    files = [f"{name}=${{{stage}.run}}/{ANSWERS}" for (name, _), stage in zip(both, answers, strict=True)]
    stages[REPORT] = {
        "verb": "evaluate",
        "model": {"precision": source.precision},
        "policies": [f"start={start[1]}", f"new=${{{method}}}"],
        "data": source.keys(),
        "reward": ["${reward}"],
        "baseline": "start",
        "max_prompts": source.prompts,
        "sampling": {"max_new_tokens": source.answer_tokens},
    }
    stages["enter"] = {"verb": "votes", "action": "import", "database": database, "arena": arena, "answers": files}
    return source.plan(seed, stages)


def outcome(folder: Path) -> dict[str, Any] | None:
    """What the report of a run of ``policy_plan`` says of both policies; None before the report is written.

    ``survives``: the share of the proxy's gain that gold confirms; None where gold is not known.
    """
    if not (folder / PIPELINE).is_file() or not (folder / REPORT / REPORT_JSON).is_file():
        return None
    found = read_json(folder / REPORT / REPORT_JSON)
    if not isinstance(found, dict) or not isinstance(found.get("policies"), dict):
        return None
    policies = {
        name: {key: scores.get(key) for shown in _SHOWN for key in (shown, f"{shown}_low", f"{shown}_high")}
        for name, scores in found["policies"].items()
        if isinstance(scores, dict)
    }
    over = found.get("over_optimisation") or {}
    return {"policies": policies, "over_optimisation": over.get("new"), "prompts": found.get("prompts")}


def _answers(policies: Sequence[Policy], source: Source, n: int, seed: int) -> dict[str, Any]:
    stages = {}
    for number, (name, model) in enumerate(policies):
        if "=" in name:
            raise UserError(f'policy "{name}": a name with "=" cannot stand in an arena; rename the run')
        stages[f"answers{number}"] = {
            "verb": "generate",
            "seed": seed + number,  # so that two policies that are nearly equal still give unlike answers
            "model": source.model(str(model)),
            "data": source.keys(source.prompts),
            "sampling": {"n": n, "max_new_tokens": source.answer_tokens},
        }
    return stages
