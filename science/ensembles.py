"""Law 3, ensembles: what the minimum, the mean, and the mean less a deviation of five models lose to best-of-n."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from science import decide, proxies, world
from science.order import best_of

MEMBERS, NOISES, PAIRS = 5, (0.0, 0.25), 2_000
WAYS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mean": lambda proxy_MPN: proxy_MPN.mean(0),
    "minimum": lambda proxy_MPN: proxy_MPN.min(0),
    "mean less a deviation": lambda proxy_MPN: proxy_MPN.mean(0) - proxy_MPN.std(0),
}


def measure(seed: int, folder: Path) -> dict[str, Any]:
    _, gold_PN = world.answers(folder, seed)
    found: dict[str, dict[str, list[float]]] = {}
    for noise in NOISES:
        members = [proxies.reward_model(folder, seed, "middle", PAIRS, noise, member) for member in range(MEMBERS)]
        proxies_MPN = proxies.standardised([proxies.scores(folder, seed, member) for member in members])
        alone = [[best_of(n, proxy_PN, gold_PN) for n in world.NS] for proxy_PN in proxies_MPN]
        found[f"{noise:g}"] = {"one": np.mean(alone, 0).tolist()} | {
            way: [best_of(n, combined(proxies_MPN), gold_PN) for n in world.NS] for way, combined in WAYS.items()
        }
    return found


def lost(gold: Sequence[float]) -> float:
    """Gold at its peak less gold at n = 1,000."""
    return max(gold) - gold[-1]


def decisions(results: Sequence[dict[str, Any]]) -> dict[str, decide.Decision]:
    noisy = [r["0.25"] for r in results]
    return {
        "minimum": decide.above([lost(r["one"]) - lost(r["minimum"]) for r in noisy]),
        "mean_std": decide.above([lost(r["one"]) - lost(r["mean less a deviation"]) for r in noisy]),
        "mean": decide.above([lost(r["mean"]) for r in noisy]),
    }


def draw(results: Sequence[dict[str, Any]], axes: Any) -> None:
    for axis, noise in zip(axes, NOISES, strict=True):
        for way in ("one", *WAYS):
            curve = np.mean([r[f"{noise:g}"][way] for r in results], 0)
            axis.plot(world.NS, curve, marker="o", label="one reward model" if way == "one" else way)
        axis.set(xscale="log", xlabel="n", ylabel="gold", title=f"{noise:.0%} of the labels exchanged")
