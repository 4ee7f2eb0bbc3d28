"""Law 6, reward models: accuracy against flipped labels, pairs and the Bayes accuracy; calibration."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from science import decide, proxies

CELLS = ((500, 0.0), (2_000, 0.0), (8_000, 0.0), (2_000, 0.25))  # pairs, share of exchanged labels
SIZE = "middle"


def measure(seed: int, folder: Path) -> dict[str, Any]:
    found = {}
    for count, noise in CELLS:
        run = proxies.reward_model(folder, seed, SIZE, count, noise)
        summary = json.loads((run / "reward_model.json").read_text(encoding="utf-8"))
        found[f"{count} {noise:g}"] = {key: summary[key] for key in ("accuracy", "bayes_accuracy", "calibration_error")}
    return found


def decisions(results: Sequence[dict[str, Any]]) -> dict[str, decide.Decision]:
    def accuracies(cell: str) -> np.ndarray:
        return np.array([r[cell]["accuracy"] for r in results])

    over = [row["accuracy"] - row["bayes_accuracy"] for r in results for row in r.values()]
    return {
        "noise": decide.above(list(accuracies("2000 0") - accuracies("2000 0.25"))),
        "bayes": decide.every(over, most=0.0),
        "pairs": decide.above(list(accuracies("8000 0") - accuracies("500 0"))),
        "calibration": decide.mean_is([r["8000 0"]["calibration_error"] for r in results], most=0.03),
    }


def draw(results: Sequence[dict[str, Any]], axes: Any) -> None:
    names = [f"{count:,} pairs" + (f",\n{noise:.0%} exchanged" if noise else "") for count, noise in CELLS]
    for axis, key, label in zip(
        axes, ("accuracy", "calibration_error"), ("accuracy on held-out pairs", "calibration error (ECE)"), strict=True
    ):
        for place, (count, noise) in enumerate(CELLS):
            axis.plot([place] * len(results), [r[f"{count} {noise:g}"][key] for r in results], "o", color="tab:blue")
        axis.set(xticks=range(len(CELLS)), xticklabels=names, ylabel=label)
    axes[0].axhline(results[0]["500 0"]["bayes_accuracy"], ls="--", color="k", label="Bayes accuracy")
