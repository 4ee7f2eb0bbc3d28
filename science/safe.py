"""Law 10, a multiplier that adapts: words as a cost, against fixed weights of the cost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import concordant
from science import decide, policies, proxies, world

LIMIT, SLACK, STEPS, KL = 12.0, 0.5, 40, 0.05
ARMS = {"adaptive": (0.1, 0.3)} | {f"fixed, {weight:g}": (weight, 0.0) for weight in (0.02, 0.1, 0.3)}  # λ, its rate


def words(prompt: object, response: str) -> float:
    """The cost of an answer."""
    return float(len(response.split()))


def measure(seed: int, folder: Path) -> dict[str, Any]:
    reward = str(proxies.reward_model(folder, seed, "large", 8_000) / "model")
    found = {}
    for name, (multiplier, rate) in ARMS.items():
        constraint = concordant.ConstraintConfig(
            cost="science.safe:words", limit=LIMIT, multiplier=multiplier, rate=rate
        )
        output = folder / f"safe-{seed}-{multiplier:g}-{rate:g}"
        found[name] = policies.reinforced(
            output, seed, world.policy(folder, seed), reward, KL, STEPS, constraint=constraint
        )
    return found


def ends(curve: Sequence[dict[str, float]]) -> tuple[float, float]:
    """The mean cost and the mean reward of the last three evaluations."""
    cost, reward = (float(np.mean([row[key] for row in curve[-3:]])) for key in ("constraint/cost", "reward"))
    return cost, reward


def decisions(results: Sequence[dict[str, Any]]) -> dict[str, decide.Decision]:
    def ahead(result: dict[str, Any]) -> float:
        fixed = sorted(ends(result[name]) for name in ARMS if name != "adaptive")
        met = [reward for cost, reward in fixed if cost <= LIMIT + SLACK]
        return ends(result["adaptive"])[1] - (max(met) if met else fixed[0][1])

    return {
        "meets": decide.every([ends(r["adaptive"])[0] for r in results], most=LIMIT + SLACK),
        "pays_less": decide.above([ahead(r) for r in results]),
    }


def draw(results: Sequence[dict[str, Any]], axes: Any) -> None:
    for name in ARMS:
        curves = [r[name] for r in results]
        steps = [row["step"] for row in curves[0]]
        for axis, key in zip(axes, ("constraint/cost", "reward"), strict=True):
            axis.plot(steps, np.mean([[row[key] for row in c] for c in curves], 0), marker="o", label=name)
    axes[0].axhline(LIMIT, color="k", ls="--")
    axes[0].set(xlabel="step", ylabel="words of an answer", title="Cost, with its limit")
    axes[1].set(xlabel="step", ylabel="score of the reward model", title="Reward")
