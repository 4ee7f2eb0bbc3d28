"""Law 7, DPO: the log-probability of the chosen answers during training, and gold for a small and a large β."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import concordant
from science import decide, world

BETAS = (0.3, 0.02)
COLUMNS = ("eval/rewards/chosen", "eval/rewards/margins", "eval/gold", "eval/kl", "eval/length")


def measure(seed: int, folder: Path) -> dict[str, Any]:
    found = {}
    for beta in BETAS:
        output = folder / f"dpo-{seed}-{beta:g}"
        if not (output / "model").is_dir():
            train, start = world.train(160, 3e-4), world.model(world.policy(folder, seed))
            train.evaluate_every = 20
            concordant.dpo(
                concordant.DPOConfig(
                    output=str(output), seed=seed, resume="auto", model=start, beta=beta, train=train,
                    data=concordant.DataConfig(path="builtin:toytalk", max_samples=4_000),
                )
            )  # fmt: skip
        lines = (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [row for row in map(json.loads, lines) if "eval/rewards/chosen" in row]
        found[f"{beta:g}"] = [{"step": row["step"]} | {k: row.get(k) for k in COLUMNS} for row in rows]
    return found


def decisions(results: Sequence[dict[str, Any]]) -> dict[str, decide.Decision]:
    last = [r["0.3"][-1] for r in results]
    falls = decide.above([-row["eval/rewards/chosen"] for row in last])
    grows = decide.above([row["eval/rewards/margins"] for row in last])
    golds = [r["0.3"][-1]["eval/gold"] - r["0.02"][-1]["eval/gold"] for r in results]
    return {
        "chosen_falls": falls if grows.verdict == decide.REPRODUCED else grows,
        "overoptimises": decide.above(golds),
    }


def draw(results: Sequence[dict[str, Any]], axes: Any) -> None:
    left, right = axes
    for beta in BETAS:
        rows = [r[f"{beta:g}"] for r in results]
        steps = [row["step"] for row in rows[0]]
        for axis, key in ((left, "eval/rewards/chosen"), (right, "eval/gold")):
            mean = [sum(run[i][key] for run in rows) / len(rows) for i in range(len(steps))]
            axis.plot(steps, mean, marker="o", label=f"β = {beta:g}")
    left.set(xlabel="step", ylabel="β log π/π_ref of chosen answers", title="Held-out chosen answers")
    right.set(xlabel="step", ylabel="gold", title="Gold of the policy's own answers")
