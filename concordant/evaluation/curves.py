"""A run's metrics.jsonl as curves."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from concordant.core.errors import UserError

Row = dict[str, float]  # one step: "step" and the metrics of that step
Curve = list[Row]

# What only that stage logs (docs/evaluate.md); the first that fits names the stage.
STAGE_KEYS = {
    "ppo": ("objective/score", "objective/kl", "policy/loss"),
    "dpo": ("rewards/accuracies", "rewards/margins"),
    "reward": ("reward/chosen", "accuracy"),
    "sft": ("token_accuracy", "perplexity"),
}


def read_curve(folder: Path) -> Curve:
    """The rows of ``folder``/metrics.jsonl by step; rows of one step are one row, the later number wins.

    A last line cut short by a kill is left out. Raises UserError when there is no such file, or for another
    line that is not an object with a step.
    """
    path = folder / "metrics.jsonl"
    if not path.is_file():
        raise UserError(f"{folder} is not a run folder: it has no metrics.jsonl")
    lines = path.read_bytes().decode("utf-8", errors="replace").split("\n")
    by_step: dict[float, Row] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        row = _parse(line)
        if row is None:
            if number == len(lines):  # no newline after it: the writer was killed here
                break
            raise UserError(f'{path} line {number}: expected a JSON object with a "step", found {line[:60]!r}')
        by_step.setdefault(row["step"], {}).update(row)
    return [by_step[step] for step in sorted(by_step)]


def _parse(line: str) -> Row | None:
    try:
        row: Any = json.loads(line)
    except json.JSONDecodeError:
        return None
    if not isinstance(row, dict):
        return None
    numbers = {k: float(v) for k, v in row.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    return numbers if "step" in numbers else None


def series(curve: Sequence[Row], key: str, over: str = "step") -> tuple[list[float], list[float]]:
    """(x, y) of every row that has finite numbers for both ``over`` and ``key``."""
    points = [(row[over], row[key]) for row in curve if over in row and key in row]
    points = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    return [x for x, _ in points], [y for _, y in points]


def stage_of(curve: Sequence[Row]) -> str:
    """ "ppo", "dpo", "reward" or "sft", by what the run logged; "" when none fits."""
    logged = {key for row in curve for key in row}
    return next((stage for stage, keys in STAGE_KEYS.items() if logged.intersection(keys)), "")
