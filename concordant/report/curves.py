"""Reads metrics.jsonl of a run as curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from concordant.core.errors import UserError
from concordant.runs.names import METRICS
from concordant.runs.read import metrics_of

Row = dict[str, float]  # one step: "step" and the metrics of that step
Curve = list[Row]

# A metric that only this stage logs (docs/evaluate.md). The first metric that the run has names the stage.
STAGE_KEYS = {
    "ppo": ("objective/score", "objective/kl", "policy/loss"),
    "dpo": ("rewards/accuracies", "rewards/margins"),
    "distill": ("divergence",),
    "reward": ("reward/chosen", "accuracy"),
    "sft": ("token_accuracy", "perplexity"),
}


def read_curve(folder: Path) -> Curve:
    """The rows of ``folder``/metrics.jsonl by step. Rows of one step become one row, with the later numbers.

    Damaged lines are left out; ``runs.read.complaints`` reports them. Raises UserError if there is no such file.
    """
    path = folder / METRICS
    if not path.is_file():
        raise UserError(f"{folder} is not a run folder: it has no {METRICS}")
    by_step: dict[float, Row] = {}
    for row in metrics_of(folder).rows:
        numbers = {k: float(v) for k, v in row.items() if isinstance(v, int | float) and not isinstance(v, bool)}
        by_step.setdefault(numbers["step"], {}).update(numbers)
    return [by_step[step] for step in sorted(by_step)]


def series(curve: Sequence[Row], key: str, over: str = "step") -> tuple[list[float], list[float]]:
    """(x, y) of the rows in which both ``over`` and ``key`` are finite numbers."""
    points = [(row[over], row[key]) for row in curve if over in row and key in row]
    points = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    return [x for x, _ in points], [y for _, y in points]


def stage_of(curve: Sequence[Row]) -> str:
    """ "ppo", "dpo", "distill", "reward" or "sft", found by the logged metrics; "" if none fits."""
    logged = {key for row in curve for key in row}
    return next((stage for stage, keys in STAGE_KEYS.items() if logged.intersection(keys)), "")
