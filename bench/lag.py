"""What sampling ahead saves: PPO whose generator stands apart, each worker on a core of its own, max_lag 0 and 1.

    python -m bench.lag [--turns 2] [--steps 3] [--model builtin:small] [--answers 2] [--tokens 64]

Runs alternate. A number is the median over all runs of a side, without each run's first two steps. With max_lag 0 a
step takes as long as its sampling and its learning one after the other, and with 1 at best as long as the longer of
the two; ``possible`` is this bound. The driver has no core of its own. The machine must do nothing else. The results
stand in bench/results/lag.json.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import concordant
from bench.small_run import REWARD
from concordant.algorithms.ppo import PPO
from concordant.config.cluster import ApartConfig, ClusterConfig
from concordant.config.data import DataConfig
from concordant.config.model import ModelConfig
from concordant.config.sampling import SamplingConfig
from concordant.config.stages import PPOConfig
from concordant.config.train import TrainConfig
from concordant.core.errors import UserError
from concordant.engines.group.orders import Order
from concordant.runs.identity import package_version

RESULTS = Path(__file__).parent / "results" / "lag.json"
LAGS = (0, 1)
FIRST = 2  # steps of a run that are not counted


def pinned(team: Any, core: int) -> None:
    """The team's worker, which has one thread, runs on ``core`` alone."""
    team.order(Order(verb="os:sched_setaffinity", arguments=[0, [core]])).result()


@contextmanager
def timed(seconds: list[float]) -> Iterator[None]:
    """Inside the block, every step of PPO adds its seconds, and its workers are pinned before the first one."""
    step, seen = PPO.step, set[int]()
    learner, sampler = sorted(os.sched_getaffinity(0))[:2]

    def run(self: PPO, *args: Any) -> dict[str, float]:
        if id(self) not in seen:
            seen.add(id(self))
            pinned(self.actor.team, learner)  # type: ignore[attr-defined]  # a handle
            pinned(self.sampler.generator.team, sampler)  # type: ignore[attr-defined]
        began = time.monotonic()
        metrics = step(self, *args)
        seconds.append(time.monotonic() - began)
        return metrics

    with mock.patch.object(PPO, "step", run):
        yield


def run(given: argparse.Namespace, lag: int) -> tuple[list[float], list[float]]:
    """Seconds of every step that counts, and those in which it waited for its answers."""
    seconds: list[float] = []
    with tempfile.TemporaryDirectory() as folder, timed(seconds):
        concordant.ppo(
            PPOConfig(
                output=f"{folder}/run",
                data=DataConfig(path="builtin:toytalk", max_samples=200),
                model=ModelConfig(given.model, device="cpu", precision="fp32"),
                train=TrainConfig(
                    max_steps=given.steps + FIRST, batch_size=16, tensorboard=False, save_every=0, evaluate_every=0
                ),
                cluster=ClusterConfig(
                    ray="local", workers=1, shards=1, max_lag=lag, apart=ApartConfig(generator=1), timeout=300
                ),
                sampling=SamplingConfig(n=given.answers, max_new_tokens=given.tokens),
                advantage="rloo",
                reward=REWARD,
            )
        )
        lines = (Path(folder) / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    waited = [row["seconds/rollout"] for row in map(json.loads, lines) if "seconds/rollout" in row]
    return seconds[FIRST:], waited[FIRST:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--model", default="builtin:small")
    parser.add_argument("--answers", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=64)
    given = parser.parse_args()
    if len(os.sched_getaffinity(0)) < 2:
        raise UserError("this bench needs two cores, one for each worker")
    steps: dict[int, list[float]] = {lag: [] for lag in LAGS}
    waits: dict[int, list[float]] = {lag: [] for lag in LAGS}
    for _ in range(given.turns):
        for lag in LAGS:
            seconds, waited = run(given, lag)
            steps[lag] += seconds
            waits[lag] += waited
    whole, sampling = median(steps[0]), median(waits[0])
    found = {
        "concordant": package_version(),
        "given": vars(given),
        "load average": round(os.getloadavg()[0], 1),
        "rows": {
            f"max_lag {lag}": {"step, s": round(median(steps[lag]), 3), "waited, s": round(median(waits[lag]), 3)}
            for lag in LAGS
        },
        "faster": round(whole / median(steps[1]), 3),
        "possible": round(whole / max(sampling, whole - sampling), 3),
        "steps": {f"max_lag {lag}": [round(s, 3) for s in steps[lag]] for lag in LAGS},
    }
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
