"""What RLOO on the toy world forgets of plain text: with nothing, a pretraining mix, held weights, or replay.

    python -m bench.forgetting --text FILE [--seeds 0 1 2] [--steps 40] [--add]

A small model first learns the toy world's answers and the text together. Then RLOO learns from the toy world's gold
judge in each of the ways of ``WAYS``. The text's negative log-prob is compared where all ways have the same reward: at
the least of their last rewards, between two evaluations by a straight line. Results: bench/results/forgetting.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory
from typing import Any

import concordant
from concordant.config.data import DataConfig
from concordant.config.model import ModelConfig
from concordant.config.retain import RetainConfig
from concordant.config.sampling import SamplingConfig
from concordant.config.stages import PPOConfig, SFTConfig
from concordant.config.train import TrainConfig
from concordant.data.dialogue import Messages
from concordant.data.toytalk import gold_score

RESULTS = Path(__file__).parent / "results" / "forgetting.json"
WAYS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "PTX, mix 0.2": {"mix": 0.2},
    "PTX, mix 1": {"mix": 1.0},
    "EWC, 3": {"ewc": 3.0},
    "EWC, 30": {"ewc": 30.0},
    "replay of 4 steps": {"replay": 4},
}
DATA = DataConfig(path="builtin:toytalk", max_samples=2000)
STUDENT_T = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}  # of 95 %, by number of seeds


def judged(prompts: Sequence[Messages], responses: Sequence[str]) -> list[float]:
    """The toy world's own judge as a reward."""
    return [gold_score(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]


def evaluations_of(run: Path, *names: str) -> list[dict[str, float]]:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [
        {name: row[f"eval/{name}"] for name in names} for row in map(json.loads, lines) if f"eval/{names[0]}" in row
    ]
    return rows


def start(folder: Path, text: str, seed: int) -> tuple[Path, float]:
    """A model that knows the toy world and the text, and the text's negative log-prob."""
    config = SFTConfig(
        output=str(folder / "sft"),
        seed=seed,
        data=DATA,
        model=ModelConfig("builtin:tiny", device="cpu", precision="fp32"),
        train=TrainConfig(
            max_steps=600, batch_size=16, tensorboard=False, learning_rate=3e-3, save_minutes=0, keep_best=False
        ),
        retain=RetainConfig(text=text, mix=1.0, batch_size=8),
    )
    run = concordant.sft(config)
    return run / "model", evaluations_of(run, "retain/nll")[-1]["retain/nll"]


def learn(folder: Path, model: Path, text: str, seed: int, steps: int, way: str) -> list[dict[str, float]]:
    """The evaluations of one run: the gold reward, the KL, and the text's negative log-prob, in nats a token."""
    settings = dict(WAYS[way])
    config = PPOConfig(
        output=str(folder / way.replace(" ", "-").replace(",", "")),
        seed=seed,
        data=DATA,
        model=ModelConfig(str(model), device="cpu", precision="fp32"),
        reward=["bench.forgetting:judged"],
        advantage="rloo",
        sampling=SamplingConfig(n=4, max_new_tokens=32),
        replay=settings.pop("replay", 0),
        retain=RetainConfig(text=text, **settings),
        train=TrainConfig(
            max_steps=steps, batch_size=16, tensorboard=False, learning_rate=5e-4, evaluate_every=2, save_minutes=0,
            keep_best=False,
        ),
    )  # fmt: skip
    return evaluations_of(concordant.ppo(config), "reward", "kl", "retain/nll")


def text_at(reward: float, evaluations: list[dict[str, float]]) -> float:
    """The text's negative log-prob where the run first has this reward."""
    before = evaluations[0]
    for now in evaluations:
        if now["reward"] >= reward:
            share = (reward - before["reward"]) / max(now["reward"] - before["reward"], 1e-9)
            return before["retain/nll"] + share * (now["retain/nll"] - before["retain/nll"])
        before = now
    raise ValueError(f"the run never had a reward of {reward}")


def rise_of(run: dict[str, Any]) -> dict[str, float]:
    """By way, how much the text's negative log-prob rose from the start to the common reward, in nats a token."""
    reward, text_before = run["compared at reward"], run["text before"]
    return {way: text_at(reward, evaluations) - text_before for way, evaluations in run["evaluations"].items()}


def with_interval(values: list[float]) -> dict[str, float]:
    half = STUDENT_T[len(values)] * stdev(values) / len(values) ** 0.5 if len(values) in STUDENT_T else float("nan")
    return {"mean": mean(values), "half of the 95 % interval": half}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--add", action="store_true", help="keep the other seeds that the output has already")
    given = parser.parse_args()
    runs: dict[str, Any] = json.loads(given.output.read_text(encoding="utf-8"))["runs"] if given.add else {}
    for seed in given.seeds:
        with TemporaryDirectory() as folder:
            model, text_before = start(Path(folder), given.text, seed)
            found = {way: learn(Path(folder), model, given.text, seed, given.steps, way) for way in WAYS}
        reward = min(max(e["reward"] for e in evaluations) for evaluations in found.values())
        runs[str(seed)] = {"text before": text_before, "compared at reward": reward, "evaluations": found}
        print(
            seed, f"reward {reward:.3f}", {way: round(x, 4) for way, x in rise_of(runs[str(seed)]).items()}, flush=True
        )
        rises = [rise_of(run) for run in runs.values()]
        table = {way: with_interval([rise[way] for rise in rises]) for way in WAYS}
        made = {"rise, nats a token": table, "runs": runs}
        given.output.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
