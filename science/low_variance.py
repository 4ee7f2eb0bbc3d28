"""Law 6, an accurate reward may teach slowly: a tenth of gold against gold with errors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from science import decide, policies, world

STEPS, KL = 40, 0.05
REWARDS = {"a tenth of gold": "faint_gold", "gold with errors": "wrong_gold"}


def measure(seed: int, folder: Path) -> dict[str, Any]:
    rows, gold_PN = world.answers(folder, seed)
    noisy_PN = np.array([policies.wrong_gold(r["prompt"], r["response"]) for r in rows]).reshape(gold_PN.shape)
    apart = gold_PN[:, ::2] - gold_PN[:, 1::2]
    agree = (apart * (noisy_PN[:, ::2] - noisy_PN[:, 1::2]) > 0)[apart != 0]
    curves = {
        name: policies.reinforced(
            folder / f"{function}-{seed}", seed, world.policy(folder, seed), f"science.policies:{function}", KL, STEPS
        )
        for name, function in REWARDS.items()
    }
    return {"accuracy of gold with errors": float(agree.mean()), "curves": curves}


def decisions(results: Sequence[dict[str, Any]]) -> dict[str, decide.Decision]:
    last = [{name: curve[-1]["gold"] for name, curve in r["curves"].items()} for r in results]
    return {"gold": decide.above([row["gold with errors"] - row["a tenth of gold"] for row in last])}


def draw(results: Sequence[dict[str, Any]], axes: Any) -> None:
    for name in REWARDS:
        for axis, x, label in ((axes[0], "step", "step"), (axes[1], "kl", "KL from the start, nats")):
            mean = {key: np.mean([[row[key] for row in r["curves"][name]] for r in results], 0) for key in (x, "gold")}
            axis.plot(mean[x], mean["gold"], marker="o", label=name)
            axis.set(xlabel=label, ylabel="gold")
