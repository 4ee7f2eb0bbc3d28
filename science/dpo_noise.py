"""Law 7, DPO with wrong labels: what they cost, and whether a loss that is told their share (cDPO) is better."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import concordant
from science import decide, policies, world

NOISE, PAIRS, STEPS, BETA = 0.25, 4_000, 160, 0.3
WAYS = {"DPO, no wrong label": (0.0, 0.0), "DPO": (NOISE, 0.0), "cDPO": (NOISE, NOISE)}  # wrong labels; what it is told


def measure(seed: int, folder: Path) -> dict[str, Any]:
    models = {"sft": world.policy(folder, seed)}
    for way, (noise, told) in WAYS.items():
        output = folder / f"dpo-noise-{seed}-{noise:g}-{told:g}"
        if not (output / "model").is_dir():
            concordant.dpo(
                concordant.DPOConfig(
                    output=str(output), seed=seed, resume="auto", model=world.model(models["sft"]), beta=BETA,
                    data=concordant.DataConfig(path=str(world.pairs(folder, PAIRS, noise, seed))),
                    label_smoothing=told, train=world.train(STEPS, 3e-4, keep_best=False),
                )
            )  # fmt: skip
        models[way] = output / "model"
    return policies.compared(folder, seed, models, "dpo-noise")


def decisions(results: Sequence[dict[str, Any]]) -> dict[str, decide.Decision]:
    clean, plain, told = ([r[way]["gold"] for r in results] for way in WAYS)
    return {
        "noise": decide.above(list(np.subtract(clean, plain))),
        "cdpo": decide.above(list(np.subtract(told, plain))),
    }


def draw(results: Sequence[dict[str, Any]], axes: Any) -> None:
    names = ["sft", *WAYS]
    for axis, key, label in ((axes[0], "gold", "gold"), (axes[1], "kl", "KL from the first policy, nats")):
        for result in results:
            axis.plot(range(len(names)), [result[name][key] for name in names], "o", color="0.7")
        axis.plot(range(len(names)), [np.mean([r[name][key] for r in results]) for name in names], "_", ms=30)
        axis.set_xticks(range(len(names)), names, rotation=12)
        axis.set_ylabel(label)
