"""Two workers with a core each, against one worker with one core, on the same batches.

    python -m bench.efficiency [--turns 3] [--steps 8]

Runs alternate. A number is the median time of a step, or of its rollout, over all runs of a side, without each run's
first two steps. Efficiency is the time of one worker over twice the time of two. The results stand in
bench/results/efficiency.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from bench import material

RESULTS = Path(__file__).parent / "results" / "efficiency.json"
FIRST = 2  # steps of a run that are not counted
COMMON = (
    "--train.tensorboard",
    "false",
    "--model.precision",
    "fp32",
    "--model.device",
    "cpu",
    "--data.max_samples",
    "600",
)
SFT = ("sft", "--train.batch_size", "32")
PPO = (
    "ppo", "--reward", "bench.small_run:length", "--advantage", "rloo", "--train.batch_size", "16",
    "--sampling.n", "4", "--sampling.max_new_tokens", "48",
)  # fmt: skip
MEASURED = {"sft": (SFT, "seconds/step"), "rollouts": (PPO, "seconds/rollout"), "ppo": (PPO, "seconds/step")}


def run(command: tuple[str, ...], steps: int, workers: int, folder: Path) -> list[dict[str, Any]]:
    """The metrics of a run on as many cores as workers, without the first steps."""
    arguments = [
        *command,
        *COMMON,
        "--model.name",
        str(material.make() / "llama"),
        "--data.path",
        str(material.hh_file() or "builtin:toytalk"),
        "--train.max_steps",
        str(steps),
    ]
    arguments += ["--output", str(folder), "--cluster.workers", str(workers)]
    cores = sorted(os.sched_getaffinity(0))[:workers]
    subprocess.run(
        [sys.executable, "-m", "concordant", *arguments],
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [row for row in map(json.loads, lines) if "seconds/step" in row][FIRST:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    given = parser.parse_args()
    seconds: dict[str, dict[int, list[float]]] = {name: {1: [], 2: []} for name in MEASURED}
    for turn in range(given.turns):
        for command in (SFT, PPO):
            for workers in (1, 2):
                with tempfile.TemporaryDirectory() as folder:
                    rows = run(command, given.steps, workers, Path(folder) / "run")
                for name, (of, key) in MEASURED.items():
                    if of is command:
                        seconds[name][workers] += [row[key] for row in rows]
        rows_of = {
            name: {
                "one worker, s": median(times[1]),
                "two workers, s": median(times[2]),
                "efficiency": median(times[1]) / 2 / median(times[2]),
            }
            for name, times in seconds.items()
        }
        print(turn, json.dumps(rows_of), flush=True)
    RESULTS.write_text(json.dumps({"turns": given.turns, "steps": given.steps, "rows": rows_of}, indent=1) + "\n")


if __name__ == "__main__":
    main()
