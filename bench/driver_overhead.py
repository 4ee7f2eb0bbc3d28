"""What a step of PPO on Ray spends outside its workers, and the bytes of weights that a generator apart gets.

    python -m bench.driver_overhead [--model builtin:small] [--steps 3]
    python -m bench.driver_overhead --model gpt2 --apart-steps 0

``gpt2`` has GPT-2's shape and random weights, 124 million parameters.

A driver prepares batches, computes advantages and sends orders while its workers wait. Two shares are measured over all
steps but the first one: of the time in which the one worker has no order (on a busy machine this includes the time in
which the driver is not on a processor), and of the driver's processor time in the processor time of driver and worker.
The results of each model stand in bench/results/driver_overhead.json.
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
from typing import Any
from unittest import mock

import concordant
from bench import material
from bench.small_run import REWARD
from concordant.algorithms.ppo import PPO
from concordant.config.cluster import ApartConfig, ClusterConfig
from concordant.config.data import DataConfig
from concordant.config.model import ModelConfig
from concordant.config.sampling import SamplingConfig
from concordant.config.stages import PPOConfig
from concordant.config.train import TrainConfig
from concordant.runs.identity import package_version

RESULTS = Path(__file__).parent / "results" / "driver_overhead.json"
BARS = {"gpt2": 0.01}  # of a step at 124 million parameters
BAR = 0.05  # at 13.8 million


@contextmanager
def measured(rows: list[dict[str, float]]) -> Iterator[None]:
    """Inside the block, every step of PPO adds a row: seconds of the step, at orders, and of processors."""
    step = PPO.step

    def timed(self: PPO, *args: Any) -> dict[str, float]:
        team: Any = self.actor.team  # type: ignore[attr-defined]  # a handle
        busy, processor = team.ray.get(team.actors[0].seconds_at_work.remote())
        began, own = time.monotonic(), time.process_time()
        metrics = step(self, *args)
        row = {"step": time.monotonic() - began, "driver's processor": time.process_time() - own}
        after = team.ray.get(team.actors[0].seconds_at_work.remote())
        row |= {"worker at orders": after[0] - busy, "worker's processor": after[1] - processor}
        rows.append(row | {"bytes of weights": metrics.get("doctor/weights_sent", 0.0)})
        return metrics

    with mock.patch.object(PPO, "step", timed):
        yield


def run(model: str, steps: int, apart: ApartConfig) -> list[dict[str, float]]:
    name = str(material.make() / model) if model in BARS else model
    rows: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder, measured(rows):
        concordant.ppo(
            PPOConfig(
                output=f"{folder}/run",
                data=DataConfig(path="builtin:toytalk", max_samples=200),
                model=ModelConfig(name, device="cpu", precision="fp32"),
                train=TrainConfig(max_steps=steps, batch_size=16, tensorboard=False, save_every=0, evaluate_every=0),
                cluster=ClusterConfig(ray="local", workers=1, shards=2, apart=apart),
                sampling=SamplingConfig(n=2, max_new_tokens=48),
                advantage="rloo",
                reward=REWARD,
            )
        )
    return rows[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="builtin:small")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--apart-steps", type=int, default=2, help="of a run with a generator apart; 0: no such run")
    given = parser.parse_args()
    together = run(given.model, given.steps, ApartConfig())
    apart = run(given.model, given.apart_steps, ApartConfig(generator=1)) if given.apart_steps > 1 else []
    total = {name: sum(row[name] for row in together) for name in together[0]}
    processors = total["driver's processor"] + total["worker's processor"]
    found = {
        "concordant": package_version(),
        "model": given.model,
        "steps": len(together),
        "load average": round(os.getloadavg()[0], 1),
        "share of a step without an order": round(1 - total["worker at orders"] / total["step"], 4),
        "driver's share of processor time": round(total["driver's processor"] / processors, 4),
        "bar": BARS.get(given.model, BAR),
        **({"bytes of weights a step, generator apart": apart[0]["bytes of weights"]} if apart else {}),
        "rows": [{name: round(value, 3) for name, value in row.items()} for row in together],
    }
    known = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps(known | {given.model: found}, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
