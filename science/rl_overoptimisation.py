"""Law 2, over-optimisation by reinforcement learning: its form, a KL penalty, and its KL against best-of-n's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from science import decide, overoptimisation, policies, proxies, world
from science.order import best_of

SAME, N = 0.05, 16
Curve = Sequence[dict[str, float]]


def measure(seed: int, folder: Path) -> dict[str, Any]:
    reward = proxies.reward_model(folder, seed, "large", 8_000)
    curves = {f"{kl:g}": policies.family(folder, seed, "rloo", kl) for kl in (0.0, policies.PENALTY)}
    start = policies.compared(folder, seed, {"sft": world.policy(folder, seed)}, "untrained")["sft"]
    _, gold_PN = world.answers(folder, seed)
    proxy_PN = proxies.scores(folder, seed, reward)
    best = [{"gold": best_of(n, proxy_PN, gold_PN), "reward": best_of(n, proxy_PN, proxy_PN)} for n in world.NS]
    return {"curves": curves, "start": start, "best of n": best}


def left_out_fit(curve: Curve) -> float:
    """R² of gold = g + d (α − β log d), fitted to every second evaluation, on the other ones."""
    d, gold = _distances(curve), np.array([row["gold"] for row in curve])
    terms = np.stack([np.ones_like(d), d, -d * np.log(d)], 1)
    fitted, left_out = slice(0, None, 2), slice(1, None, 2)
    numbers, *_ = np.linalg.lstsq(terms[fitted], gold[fitted], rcond=None)
    residual = gold[left_out] - terms[left_out] @ numbers
    return float(1 - (residual**2).sum() / ((gold[left_out] - gold[left_out].mean()) ** 2).sum())


def _distances(curve: Curve) -> np.ndarray:
    """d; a sampled KL may be below 0 at the first steps."""
    return np.sqrt([max(row["kl"], 1e-3) for row in curve])


def moved(free: Curve, held: Curve) -> float:
    """The mean gold of the run with a penalty, less that of the free run at the same KL."""
    order = sorted(free, key=lambda row: row["kl"])
    golds = np.interp([r["kl"] for r in held], [r["kl"] for r in order], [r["gold"] for r in order])
    return float(np.mean([row["gold"] for row in held] - golds))


def spent(result: dict[str, Any]) -> float:
    """ln of RLOO's KL over best-of-n's, at the proxy's gain of best-of-16."""
    n, best = world.NS.index(N), result["best of n"]
    wanted = best[n]["reward"] - best[0]["reward"]
    gains = [row["reward"] - result["start"]["reward"] for row in result["curves"]["0"]]
    kl = np.interp(wanted, np.maximum.accumulate(gains), [row["kl"] for row in result["curves"]["0"]])
    return math.log(kl / float(overoptimisation.distances()[n]) ** 2)


def decisions(results: Sequence[dict[str, Any]]) -> dict[str, decide.Decision]:
    curves = [(r["curves"]["0"], r["curves"][f"{policies.PENALTY:g}"]) for r in results]
    return {
        "form": decide.mean_is([left_out_fit(free) for free, _ in curves], least=0.9),
        "penalty": decide.inside([moved(free, held) for free, held in curves], SAME),
        "spends_more": decide.above([spent(r) for r in results]),
    }


def draw(results: Sequence[dict[str, Any]], axes: Any) -> None:
    for axis, key in zip(axes, ("gold", "reward"), strict=True):
        for kl, colour, label in (
            ("0", "tab:blue", "RLOO"),
            (f"{policies.PENALTY:g}", "tab:green", "RLOO, KL penalty 0.1"),
        ):
            for i, r in enumerate(results):
                rows = [{"kl": 0.0} | r["start"], *r["curves"][kl]]
                gain = [row[key] - r["start"][key] for row in rows]
                axis.plot([0, *_distances(rows[1:])], gain, color=colour, alpha=0.6, label=label if i == 0 else None)
        gains = [[row[key] - r["best of n"][0][key] for row in r["best of n"]] for r in results]
        axis.plot(overoptimisation.distances(), np.mean(gains, 0), "k--", label="best-of-n, mean")
        axis.set(xlabel="d = √KL, √nats", ylabel=f"gain of {'gold' if key == 'gold' else 'the proxy'}")
