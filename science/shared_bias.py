"""Law 3, what an ensemble does not cure: members with one start, and a taste that all raters share."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet

from science import decide, proxies, world
from science.order import Numbers, best_of

MEMBERS, PAIRS, NOISE = 3, 2_000, 0.25
TASTE = 0.03  # gold for each word
SURE = 16.0  # nats for a difference of 1, as the raters of toytalk


def measure(seed: int, folder: Path) -> dict[str, Any]:
    _, gold_PN = world.answers(folder, seed)

    def given(runs: Sequence[Path]) -> Numbers:
        return proxies.standardised([proxies.scores(folder, seed, run) for run in runs])

    members = range(MEMBERS)
    starts = given([proxies.reward_model(folder, seed, "middle", PAIRS, NOISE, member) for member in members])
    noisy = world.pairs(folder, PAIRS, NOISE, seed)
    orders = given([_model(folder, seed, "order", noisy, member, 0) for member in members])
    without = given([proxies.reward_model(folder, seed, "middle", PAIRS, 0.0, member) for member in members])
    wordy = _wordy(folder, seed)
    taste = given([_model(folder, seed, "wordy", wordy, member, member) for member in members])
    rows, _ = world.answers(folder, seed)
    words_PN = np.array([float(len(row["response"].split())) for row in rows]).reshape(gold_PN.shape)
    proxy = {
        "own starts": starts.mean(0) - starts.std(0),
        "one start": orders.mean(0) - orders.std(0),
        "three, no taste": without.min(0),
        "three with the taste": taste.min(0),
    }
    return {
        "kept": {name: proxies.kept(proxy_PN, gold_PN) for name, proxy_PN in proxy.items()}
        | {"one with the taste": float(np.mean([proxies.kept(one, gold_PN) for one in taste]))},
        "gold": {name: [best_of(n, p, gold_PN) for n in world.NS] for name, p in proxy.items()}
        | {"one with the taste": np.mean([[best_of(n, p, gold_PN) for n in world.NS] for p in taste], 0).tolist()},
        "words": {name: [best_of(n, p, words_PN) for n in world.NS] for name, p in proxy.items()},
    }


def _model(folder: Path, seed: int, name: str, data: Path, member: int, begin: int) -> Path:
    output = folder / f"{name}-{seed}-{member}"
    train = world.train(PAIRS * 4 // 16, 2e-3)
    return proxies.learn(output, 1_000 * member + seed, proxies.start(folder, seed, "middle", begin), data, train)


def _wordy(folder: Path, seed: int) -> Path:
    """The pairs of the other laws with the labels of raters who like words."""
    tables = [parquet.read_table(world.prepared(folder) / part / "train.parquet").to_pylist() for part in ("rm", "rl")]
    golds = {
        (pair["prompt"], pair[side]): row["extra_info"][f"gold_{side}"]
        for pair, row in zip(*tables, strict=True)
        for side in ("chosen", "rejected")
    }
    draw, rows = random.Random(f"wordy {seed}"), []
    for line in world.pairs(folder, PAIRS, 0.0, seed).read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        chosen, rejected = (golds[row["prompt"], row[k]] + TASTE * len(row[k].split()) for k in ("chosen", "rejected"))
        if draw.random() > 1 / (1 + math.exp(-SURE * (chosen - rejected))):
            row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
        rows.append(row)
    return world.write(folder / f"wordy-{seed}.jsonl", rows)


def decisions(results: Sequence[dict[str, Any]]) -> dict[str, decide.Decision]:
    kept = [r["kept"] for r in results]
    left = [(k["one with the taste"] + k["three, no taste"]) / 2 - k["three with the taste"] for k in kept]
    return {
        "starts": decide.above([k["own starts"] - k["one start"] for k in kept]),
        "shared": decide.above(left),
    }


def draw(results: Sequence[dict[str, Any]], axes: Any) -> None:
    for axis, names, title in (
        (axes[0], ("own starts", "one start"), "Members' starts, 25 % of the labels flipped"),
        (axes[1], ("three, no taste", "three with the taste", "one with the taste"), "A taste for words"),
    ):
        for name in names:
            axis.plot(world.NS, np.mean([r["gold"][name] for r in results], 0), marker="o", label=name)
        axis.set(xscale="log", xlabel="n", ylabel="gold", title=title)
