"""Law 5, one frontier: six methods and best-of-n on a plane of proxy and KL and on one of gold and KL."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from science import decide, overoptimisation, policies, proxies, world
from science.order import best_of

ONLINE = {"PPO": "gae", "RLOO": "rloo", "GRPO": "grpo"}
OFFLINE = {"DPO": "sigmoid", "IPO": "ipo", "KTO": "kto"}


def measure(seed: int, folder: Path) -> dict[str, Any]:
    start = world.policy(folder, seed)
    proxy_PN = proxies.scores(folder, seed, proxies.reward_model(folder, seed, "large", 8_000))
    _, gold_PN = world.answers(folder, seed)
    trained = {name: policies.preferring(folder, seed, loss) for name, loss in OFFLINE.items()}
    for name, advantage in ONLINE.items():
        policies.family(folder, seed, advantage, policies.PENALTY)
        trained[name] = policies.place(folder, seed, advantage, policies.PENALTY) / "model"
    return {
        "policies": policies.compared(folder, seed, {"sft": start} | trained, "frontier"),
        "best of n": [
            {"kl": float(d) ** 2, "gold": best_of(n, proxy_PN, gold_PN), "reward": best_of(n, proxy_PN, proxy_PN)}
            for n, d in zip(world.NS, overoptimisation.distances(), strict=True)
        ],
    }


def behind(result: dict[str, Any]) -> float:
    """The proxy's gain of best-of-n at a policy's KL less the policy's gain, as the mean over the policies."""
    best, start = result["best of n"], result["policies"]["sft"]
    kls, gains = [row["kl"] for row in best], [row["reward"] - best[0]["reward"] for row in best]
    near = [result["policies"][name] for name in (*ONLINE, *OFFLINE) if result["policies"][name]["kl"] <= kls[-1]]
    return float(np.mean([np.interp(p["kl"], kls, gains) - (p["reward"] - start["reward"]) for p in near]))


def decisions(results: Sequence[dict[str, Any]]) -> dict[str, decide.Decision]:
    def gold(names: Sequence[str], result: dict[str, Any]) -> float:
        return float(np.mean([result["policies"][name]["gold"] for name in names]))

    return {
        "best_of_n": decide.above([behind(r) for r in results]),
        "online": decide.above([gold(list(ONLINE), r) - gold(list(OFFLINE), r) for r in results]),
    }


def draw(results: Sequence[dict[str, Any]], axes: Any) -> None:
    for axis, key, label in ((axes[0], "reward", "gain of the proxy"), (axes[1], "gold", "gain of gold")):
        for name in (*ONLINE, *OFFLINE):
            rows = [(r["policies"][name], r["policies"]["sft"]) for r in results]
            marker = "o" if name in ONLINE else "s"
            axis.plot([p["kl"] for p, _ in rows], [p[key] - s[key] for p, s in rows], marker, alpha=0.7, label=name)
        gains = [[row[key] - r["best of n"][0][key] for row in r["best of n"]] for r in results]
        axis.plot([row["kl"] for row in results[0]["best of n"]], np.mean(gains, 0), "k--", label="best-of-n, mean")
        axis.set(xlabel="KL from the start, nats", ylabel=label)
