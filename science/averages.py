"""Law 4, averages of reward models' weights: accuracy, what is remembered of flipped labels, and best-of-n."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet

import concordant
from science import decide, proxies, world
from science.order import Numbers, best_of

MEMBERS, NOISE, PAIRS = 5, 0.25, 2_000
SHARED, OWN = 125, 250  # steps of the model that all members go on from, and of each member


def measure(seed: int, folder: Path) -> dict[str, Any]:
    data = world.pairs(folder, PAIRS, NOISE, seed)
    first = folder / f"shared-{seed}"
    proxies.learn(first, seed, proxies.start(folder, seed, "middle", 0), data, world.train(SHARED, 2e-3))
    members = [folder / f"shared-{seed}-{member}" for member in range(MEMBERS)]
    for member, output in enumerate(members):
        proxies.learn(output, 1_000 * member + seed, first / "model", data, world.train(OWN, 1e-3, keep_best=False))
    average = folder / f"average-{seed}"
    if not (average / "model").is_dir():
        names = [str(output / "model") for output in members]
        concordant.average(concordant.AverageConfig(models=names, output=str(average / "model")))
    held_out = parquet.read_table(world.held_out(folder)).to_pylist()
    clean = {_words(row) for row in parquet.read_table(world.prepared(folder) / "rm" / "train.parquet").to_pylist()}
    rows = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()]
    flipped = [row for row in rows if _words(row) not in clean]
    models = [*members, average]
    margins = {
        name: [_margins(model, pairs, name) for model in models]
        for name, pairs in (("held-out", held_out), ("flipped", flipped))
    }
    _, gold_PN = world.answers(folder, seed)
    given = [proxies.scores(folder, seed, model) for model in models]
    curves = [[best_of(n, proxy_PN, gold_PN) for n in world.NS] for proxy_PN in given]
    together = {name: np.mean([m / m.std() for m in found[:-1]], 0) for name, found in margins.items()}
    return {
        "accuracy": {
            "members": [_positive(m) for m in margins["held-out"][:-1]],
            "average": _positive(margins["held-out"][-1]),
            "mean of scores": _positive(together["held-out"]),
        },
        "remembered": {
            "members": [_positive(m) for m in margins["flipped"][:-1]],
            "average": _positive(margins["flipped"][-1]),
            "mean of scores": _positive(together["flipped"]),
        },
        "kept": {
            "members": [proxies.kept(p, gold_PN) for p in given[:-1]],
            "average": proxies.kept(given[-1], gold_PN),
        },
        "curves": {
            "a member": np.mean(curves[:-1], 0).tolist(),
            "average of weights": curves[-1],
            "mean of scores": [best_of(n, proxies.standardised(given[:-1]).mean(0), gold_PN) for n in world.NS],
        },
    }


def _words(row: dict[str, Any]) -> str:
    return json.dumps([row["prompt"], row["chosen"], row["rejected"]])


def _margins(run: Path, pairs: Sequence[dict[str, Any]], name: str) -> Numbers:
    """The score of the chosen answer less that of the rejected one, of each pair."""
    rows = [{"prompt": row["prompt"], "response": row[side]} for row in pairs for side in ("chosen", "rejected")]
    return -np.diff(proxies.scored(run / "model", rows, run / f"{name}.jsonl").reshape(-1, 2))[:, 0]


def _positive(margins: Numbers) -> float:
    return float((margins > 0).mean())


def decisions(results: Sequence[dict[str, Any]]) -> dict[str, decide.Decision]:
    def more(key: str) -> list[float]:
        return [r[key]["average"] - float(np.mean(r[key]["members"])) for r in results]

    fewer = [r["remembered"]["mean of scores"] - r["remembered"]["average"] for r in results]
    return {
        "accuracy": decide.above(more("accuracy")),
        "memory": decide.above(fewer),
        "gold": decide.above(more("kept")),
    }


def draw(results: Sequence[dict[str, Any]], axes: Any) -> None:
    left, right = axes
    names = ["a member", "mean of scores", "average"]
    for key, label, colour in (
        ("accuracy", "right on clean held-out pairs", "tab:blue"),
        ("remembered", "as the flipped labels say", "tab:orange"),
    ):
        rows = [[float(np.mean(r[key]["members"])), r[key]["mean of scores"], r[key]["average"]] for r in results]
        left.plot(names, np.array(rows).T, "o", color=colour, label=[label] + ["_"] * (len(results) - 1))
    left.set(ylabel="share of pairs", title="Accuracy, and memory of flipped labels")
    for name in results[0]["curves"]:
        right.plot(world.NS, np.mean([r["curves"][name] for r in results], 0), marker="o", label=name)
    right.set(xscale="log", xlabel="n", ylabel="gold", title="Gold against n, 25 % of the labels flipped")
