"""Law 2, over-optimisation by best-of-n: gold against KL for reward models of three sizes, 500 to 8,000 pairs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import concordant
from science import decide, proxies, world
from science.order import best_of

PAIRS = (500, 2_000, 8_000)


def measure(seed: int, folder: Path) -> dict[str, Any]:
    _, gold_PN = world.answers(folder, seed)
    cells = {}
    for size in proxies.SIZES:
        for count in PAIRS:
            proxy_PN = proxies.scores(folder, seed, proxies.reward_model(folder, seed, size, count))
            cells[f"{size} {count}"] = {
                "gold": [best_of(n, proxy_PN, gold_PN) for n in world.NS],
                "proxy": [best_of(n, proxy_PN, proxy_PN) for n in world.NS],
            }
    return {"cells": cells}


def distances() -> np.ndarray:
    """d, the square root of the KL of best-of-n, by its bound, which is close while no answer is likely."""
    return np.sqrt([concordant.best_of_n_kl_bound(n) for n in world.NS])


def left_out_fit(gold: Sequence[float]) -> float:
    """R² of gain = d (α − β d), fitted to every second n, on the other ones."""
    d, gain = distances()[1:], np.array(gold)[1:] - gold[0]
    fitted, left_out = slice(0, None, 2), slice(1, None, 2)
    terms = np.stack([d, -(d**2)], 1)
    alpha_beta, *_ = np.linalg.lstsq(terms[fitted], gain[fitted], rcond=None)
    residual = gain[left_out] - terms[left_out] @ alpha_beta
    return float(1 - (residual**2).sum() / ((gain[left_out] - gain[left_out].mean()) ** 2).sum())


def decisions(results: Sequence[dict[str, Any]]) -> dict[str, decide.Decision]:
    def peaks(cell: str) -> list[float]:
        return [max(r["cells"][cell]["gold"]) for r in results]

    def differences(better: str, worse: str) -> list[float]:
        return [a - b for a, b in zip(peaks(better), peaks(worse), strict=True)]

    hundred, last = world.NS.index(100), world.NS.index(1_000)
    rises = [c["proxy"][last] - c["proxy"][hundred] for r in results for c in r["cells"].values()]
    return {
        "form": decide.mean_is([left_out_fit(r["cells"]["large 8000"]["gold"]) for r in results], least=0.9),
        "data": decide.above(differences("large 8000", "large 500")),
        "size": decide.above(differences("large 8000", "small 8000")),
        "proxy_rises": decide.every(rises, least=0.0),
    }


def draw(results: Sequence[dict[str, Any]], axes: Any) -> None:
    left, right = axes
    for axis, cells, title in (
        (left, [f"large {count}" for count in PAIRS], "Gold, largest reward model"),
        (right, [f"{size} 8000" for size in proxies.SIZES], "Gold, 8,000 pairs"),
    ):
        for cell in cells:
            curves = np.array([r["cells"][cell]["gold"] for r in results])
            axis.plot(distances(), curves.mean(0), marker="o", label=cell + (" pairs" if axis is left else ""))
        axis.set(xlabel="d = √KL, √nats", ylabel="gold", title=title)
