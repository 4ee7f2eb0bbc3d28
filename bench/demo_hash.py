"""The whole demo on one worker and on several: its aims, and one SHA-256 for each of its four models.

    python -m bench.demo_hash [--workers 1 2] [--shards 2] [--seed 0] [--short]

Each number of workers runs ``concordant demo --cluster.shards 2 --cluster.workers N`` once, in minutes. The aims are
those of docs/demo.md. The results stand in bench/results/demo_hash.json, where rows of other numbers of workers stay.
``--short`` makes three steps of each stage, to try this program: it meets no aim, and writes nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.drive import machine, save
from concordant.runs.identity import package_version
from concordant.runs.names import MODEL, REPORT_JSON

RESULTS = Path(__file__).parent / "results" / "demo_hash.json"
STAGES = ("sft", "dpo", "reward", "ppo")
BETTER = ("best_of_n", "dpo", "ppo")  # policies that must be better than SFT
SHORT = [f"--stages.{stage}.train.max_steps=3" for stage in STAGES] + ["--stages.report.max_prompts=8"]


def run(workers: int, shards: int, seed: int, folder: Path, options: list[str]) -> dict[str, Any]:
    """The hashes of the models and the numbers that the aims are about, with the processor time of the whole demo."""
    command = [sys.executable, "-m", "concordant", "demo", "--output", str(folder), f"--seed={seed}"]
    command += [f"--cluster.shards={shards}", f"--cluster.workers={workers}", *options]
    before = os.times()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    numbers = json.loads((folder / "report" / REPORT_JSON).read_text(encoding="utf-8"))
    return {
        "sha256": {stage: hash_of(folder / stage / MODEL) for stage in STAGES},
        "met": aims(numbers),
        "gold": {name: policy["gold_mean"] for name, policy in numbers["policies"].items()},
        "processor seconds": round(sum(after[2:4]) - sum(before[2:4])),
    }


def hash_of(model: Path) -> str:
    files = sorted(model.glob("*.safetensors"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def aims(numbers: Mapping[str, Any]) -> dict[str, bool]:
    """Which aims of docs/demo.md the numbers of the report meet."""
    policies, reward = numbers["policies"], numbers["reward_model"]
    gold = {name: policy["gold_mean"] for name, policy in policies.items()}
    return {
        "gold 0.20 above SFT": all(gold[name] >= gold["sft"] + 0.20 for name in BETTER),
        "gold 0.75 once": max(gold[name] for name in BETTER) >= 0.75,
        "75 % wins": all(policies[name]["win_rate"] >= 0.75 for name in ("dpo", "ppo")),
        "0.95 of the Bayes accuracy": reward["accuracy"] >= 0.95 * reward["bayes_accuracy"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--short", action="store_true", help="three steps of each stage, and nothing is written")
    given = parser.parse_args()
    about = {"shards": given.shards, "seed": given.seed, "concordant": package_version(), "cpu": machine()["cpu"]}
    earlier = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() and not given.short else {}
    rows = earlier.get("workers", {}) if earlier.items() >= about.items() else {}
    for workers in given.workers:
        with tempfile.TemporaryDirectory() as folder:
            options = SHORT if given.short else []
            rows[str(workers)] = run(workers, given.shards, given.seed, Path(folder) / "demo", options)
        print(workers, json.dumps(rows[str(workers)]), flush=True)
        equal = len({json.dumps(row["sha256"]) for row in rows.values()}) == 1
        if not given.short:
            save(RESULTS, about | {"equal": equal, "workers": rows})
    missed = [] if given.short else [w for w, row in rows.items() if not all(row["met"].values())]
    print("all models have one hash" if equal else "different hashes", *(f"aims missed on {w} workers" for w in missed))
    sys.exit(not equal or bool(missed))


if __name__ == "__main__":
    main()
