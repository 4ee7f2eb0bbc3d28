"""Law 6, which benchmark predicts gold after best-of-n: best-of-four questions with ties, or the accuracy on pairs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet

from science import decide, proxies, world
from science.order import Numbers, best_of

CELLS = [(size, count, 0.0) for size in proxies.SIZES for count in (500, 2_000, 8_000)] + [("middle", 2_000, 0.25)]
N = 16  # answers, of which the reward model chooses the best
GOOD, BAD, EQUAL = 0.8, 0.6, 0.1  # gold of a right answer at least, of a wrong one at most; a tie is closer than this


def measure(seed: int, folder: Path) -> dict[str, Any]:
    _, gold_PN = world.answers(folder, seed)
    asked = questions(folder)
    rows = [{key: row[key] for key in ("prompt", "response")} for question in asked for row in question]
    rights = [[row["right"] for row in question] for question in asked]
    found = []
    for size, count, noise in CELLS:
        run = proxies.reward_model(folder, seed, size, count, noise)
        flat = proxies.scored(run / "model", rows, run / "benchmark.jsonl")
        scores = np.split(flat, np.cumsum([len(question) for question in asked])[:-1])
        summary = json.loads((run / "reward_model.json").read_text(encoding="utf-8"))
        found.append(
            {
                "model": f"{size} {count} {noise:g}",
                "benchmark": float(np.mean([passed(s, np.array(r)) for s, r in zip(scores, rights, strict=True)])),
                "accuracy": summary["accuracy"],
                "gold": best_of(N, proxies.scores(folder, seed, run), gold_PN),
            }
        )
    return {"models": found, "questions": len(asked), "ties": sum(sum(r) > 1 for r in rights)}


def questions(folder: Path) -> list[list[dict[str, Any]]]:
    """For each held-out prompt its right answers, of which there are two in a tie, and up to three wrong ones."""
    pairs = parquet.read_table(world.prepared(folder) / "rl" / "test.parquet").to_pylist()
    key = lambda row: json.dumps(row["prompt"])  # noqa: E731
    found = []
    for _, group in groupby(sorted(pairs, key=key), key=key):
        of_prompt = list(group)
        prompt = of_prompt[0]["prompt"]
        sides = {(row["extra_info"][f"gold_{s}"], row[s]) for row in of_prompt for s in ("chosen", "rejected")}
        golds = sorted(sides, reverse=True)
        right = [(gold, text) for gold, text in golds if gold >= GOOD and golds[0][0] - gold <= EQUAL][:2]
        wrong = [text for gold, text in golds if gold <= BAD][:3]
        if right and len(wrong) == 3:
            answers = [(text, True) for _, text in right] + [(text, False) for text in wrong]
            found.append([{"prompt": prompt, "response": text, "right": good} for text, good in answers])
    return found


def passed(scores: Numbers, right: np.ndarray) -> float:
    """Every right answer must be above every wrong one; two right ones must also be closer than this lead (half)."""
    good, bad = scores[right], scores[~right]
    lead = good.min() - bad.max()
    if lead <= 0:
        return 0.0
    return 1.0 if good.max() - good.min() < lead else 0.5


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's, of values without ties."""
    ranks = [np.argsort(np.argsort(values)) for values in (one, other)]
    return float(np.corrcoef(ranks)[0, 1])


def decisions(results: Sequence[dict[str, Any]]) -> dict[str, decide.Decision]:
    def correlations(name: str) -> list[float]:
        return [rank_correlation([m[name] for m in r["models"]], [m["gold"] for m in r["models"]]) for r in results]

    benchmark, accuracy = correlations("benchmark"), correlations("accuracy")
    return {
        "predicts": decide.mean_is(benchmark, least=0.8),
        "beyond_pairs": decide.above([b - a for b, a in zip(benchmark, accuracy, strict=True)]),
    }


def draw(results: Sequence[dict[str, Any]], axes: Any) -> None:
    for axis, name, label in (
        (axes[0], "benchmark", "score on best-of-four questions with ties"),
        (axes[1], "accuracy", "accuracy on held-out pairs"),
    ):
        for seed, result in enumerate(results):
            rows = result["models"]
            axis.plot([m[name] for m in rows], [m["gold"] for m in rows], "o", alpha=0.7, label=f"seed {seed}")
        axis.set(xlabel=label, ylabel=f"gold after best-of-{N}")
