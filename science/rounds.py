"""Law 9, rounds of RLHF: what each round gains, what it loses, and from which policy a round starts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import transformers

import concordant
from science import decide, policies, proxies, world

ROUNDS, PAIRS, BEFORE = 4, 300, 500  # new pairs of a round; pairs of the data that the first reward model learns too
STEPS, KL = 16, 0.05
WAYS = ("goes on", "starts again", "starts half way")


def measure(seed: int, folder: Path) -> dict[str, Any]:
    first = world.policy(folder, seed)
    start = policies.compared(folder, seed, {"sft": first}, "untrained")["sft"]
    return {"start": start} | {way: _rounds(folder, seed, way, first) for way in WAYS}


def _rounds(folder: Path, seed: int, way: str, first: Path) -> list[list[dict[str, float]]]:
    """The evaluations of each round. The first round is the same for all ways."""
    policy, earlier, curves = first, world.pairs(folder, BEFORE, 0.0, seed), []
    for number in range(1, ROUNDS + 1):
        name = f"{seed}-{number}" + ("" if number == 1 else f"-{WAYS.index(way)}")
        earlier = _collected(folder / f"collect-{name}", seed, number, policy, earlier)
        train, begin = world.train(250, 2e-3), proxies.start(folder, seed, "middle", 0)
        reward = proxies.learn(folder / f"judge-{name}", seed, begin, earlier, train) / "model"
        output = folder / f"round-{name}"
        if way == "goes on" or number == 1:
            begin = policy
        else:
            begin = first if way == "starts again" else _between(folder / f"between-{name}", first, policy)
        curves.append(
            policies.reinforced(output, seed, begin, str(reward), KL, STEPS, every=2, reference=str(first))
        )  # fmt: skip
        policy = output / "model"
    return curves


def _between(output: Path, first: Path, last: Path) -> Path:
    """The policy whose weights are the mean of two policies' (the paper's LITI with η = 0.5)."""
    if not (output / "model.safetensors").is_file():
        one, other = (transformers.AutoModelForCausalLM.from_pretrained(path) for path in (first, last))
        weights = other.state_dict()
        one.load_state_dict({name: (weight + weights[name]) / 2 for name, weight in one.state_dict().items()})
        transformers.AutoTokenizer.from_pretrained(first).save_pretrained(output)
        one.save_pretrained(output)
    return output


def _collected(output: Path, seed: int, number: int, policy: Path, earlier: Path) -> Path:
    """The earlier pairs and new ones of the policy's answers, which the gold judge labels."""
    if not (output / "card.json").is_file():
        concordant.collect(
            concordant.CollectConfig(
                output=str(output), seed=seed, resume="auto", model=world.model(policy), judge="gold", round=number,
                data=concordant.DataConfig(path="builtin:toytalk"), pairs=PAIRS, earlier=str(earlier),
                sampling=concordant.SamplingConfig(n=4, max_new_tokens=48, slots=96),
            )
        )  # fmt: skip
    return output / "pairs.jsonl"


def lost(curve: Sequence[dict[str, float]]) -> float:
    return max(row["gold"] for row in curve) - curve[-1]["gold"]


def decisions(results: Sequence[dict[str, Any]]) -> dict[str, decide.Decision]:
    going = [r["goes on"] for r in results]
    ends = [[r["start"]["gold"], *(curve[-1]["gold"] for curve in r["goes on"])] for r in results]
    last = {way: [r[way][-1][-1]["gold"] for r in results] for way in WAYS}
    return {
        "falls": decide.above([lost(curves[0]) - lost(curves[-1]) for curves in going]),
        "diminish": decide.above([(gold[1] - gold[0]) - (gold[-1] - gold[-2]) for gold in ends]),
        "start": decide.above(list(np.subtract(last["starts again"], last["goes on"]))),
        "half_way": decide.above(list(np.subtract(last["starts half way"], last["goes on"]))),
    }


def draw(results: Sequence[dict[str, Any]], axes: Any) -> None:
    for axis, key, label in ((axes[0], "gold", "gold"), (axes[1], "kl", "KL from the first policy, nats")):
        for way in WAYS:
            rows = [[row[key] for curve in r[way] for row in curve] for r in results]
            steps = [STEPS * i + row["step"] for i, curve in enumerate(results[0][way]) for row in curve]
            axis.plot(steps, np.mean(rows, 0), marker="o", label=way)
        for number in range(1, ROUNDS):
            axis.axvline(STEPS * number, color="0.8")
        axis.set(xlabel="step, with a line between rounds", ylabel=label)
