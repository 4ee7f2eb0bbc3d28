"""The result of a training run, and the file that says which weights were exported."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from concordant.runs.atomic import write_text
from concordant.runs.folder import RunFolder
from concordant.runs.inputs import DATA
from concordant.runs.names import RESULT, ResultFile


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopResult:
    steps: int  # steps taken, including those before a resume
    model: Path  # the folder of the exported model; of the adapter if only the adapter is exported
    exported_step: int  # step of the exported weights: with keep_best that of the best evaluation, else the last
    best_step: int | None  # step of the best evaluation; None without held-out data
    best_value: float | None  # the best value of the metric that chooses the best weights
    stopped_early: bool
    metrics: dict[str, float]  # of the last step and its evaluation; empty if a resumed run was already complete


def write_result(folder: RunFolder, result: LoopResult, total: int, metric: str) -> str:
    """Write result.json. Returns a sentence about the problem if it cannot be written, else ""."""
    best = result.best_value
    row: ResultFile = {
        "exported_step": result.exported_step,
        "steps": result.steps,
        "total_steps": total,
        "metric": metric,
        "best_step": result.best_step,
        "best_value": best if best is not None and math.isfinite(best) else None,
        "data": str(folder.inputs.settings.get(DATA, "")),
        "data_hash": folder.inputs.contents.get(DATA, ""),
        "environment": folder.inputs.environment,
    }
    try:
        write_text(folder.path / RESULT, json.dumps(row, indent=1) + "\n")
    except OSError as problem:
        return f"{RESULT} could not be written ({problem.strerror})"
    return ""
