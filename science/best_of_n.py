"""Law 1, best-of-n: its KL and its bound, its win rate, and gold against n with a learnt proxy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import concordant
from science import decide, proxies, world
from science.order import best_of

SPREADS = (0.1, 0.5, 1.0, 3.0)  # deviation of the logits of a policy over 512 answers
NS = [2**k for k in range(11)]


def measure(seed: int, folder: Path) -> dict[str, Any]:
    stream = np.random.default_rng(seed)
    rows = [row for spread in SPREADS for row in _exact(stream, spread)]
    proxy_PN = proxies.scores(folder, seed, proxies.reward_model(folder, seed, "middle", 500))
    _, gold_PN = world.answers(folder, seed)
    curve = [{"n": n, "gold": best_of(n, proxy_PN, gold_PN), "proxy": best_of(n, proxy_PN, proxy_PN)} for n in world.NS]
    return {"exact": rows, "curve": curve}


def _exact(stream: np.random.Generator, spread: float) -> list[dict[str, float]]:
    """KL and win rate of best-of-n by enumeration, for a policy whose 512 answers have different rewards."""
    logits = stream.normal(0, spread, 512)
    p = np.exp(logits - logits.max())
    p = stream.permutation(p / p.sum())  # in the order of the reward, the worst answer first
    below = np.concatenate([[0.0], np.cumsum(p)])
    below[-1] = 1.0
    found = []
    for n in NS:
        q = np.diff(below**n)
        kl = float((q[q > 0] * np.log(q[q > 0] / p[q > 0])).sum())
        wins = float((q * (below[:-1] + 0.5 * p)).sum())
        bound = concordant.best_of_n_kl_bound(n)
        found.append(
            {"spread": spread, "n": n, "kl": kl, "bound": bound, "win_rate": wins, "likeliest": float(p.max())}
        )
    return found


def decisions(results: Sequence[dict[str, Any]]) -> dict[str, decide.Decision]:
    rows = [row for result in results for row in result["exact"]]
    close = [r["kl"] / r["bound"] for r in rows if r["n"] >= 2 and r["n"] * r["likeliest"] <= 0.1]
    falls = [max(p["gold"] for p in r["curve"]) - r["curve"][-1]["gold"] for r in results]
    return {
        "kl_below_bound": decide.every([r["kl"] - r["bound"] for r in rows], most=1e-9),
        "bound_is_close": decide.every(close, least=0.95),
        "win_rate": decide.every([r["win_rate"] - r["n"] / (r["n"] + 1) for r in rows], most=1e-9),
        "gold_falls": decide.above(falls),
    }


def draw(results: Sequence[dict[str, Any]], axes: Any) -> None:
    left, right = axes
    for spread in SPREADS:
        rows = [r for r in results[0]["exact"] if r["spread"] == spread]
        left.plot([r["n"] for r in rows], [r["kl"] for r in rows], marker="o", label=f"spread of logits {spread:g}")
    left.plot(NS, [r["bound"] for r in results[0]["exact"][: len(NS)]], "k--", label="log n − (n − 1)/n")
    left.set(xscale="log", xlabel="n", ylabel="KL, nats", title="KL of best-of-n, by enumeration")
    for name, colour in (("gold", "tab:orange"), ("proxy", "tab:blue")):
        curves = np.array([[p[name] for p in r["curve"]] for r in results])
        shown = (curves - curves[:, :1]) / (curves.max(1, keepdims=True) - curves[:, :1])
        right.plot(world.NS, shown.mean(0), color=colour, marker="o", label=name)
        right.fill_between(world.NS, shown.min(0), shown.max(0), color=colour, alpha=0.2)
    right.set(xscale="log", xlabel="n", ylabel="gain, share of its greatest", title="Gold against n (500 pairs)")
