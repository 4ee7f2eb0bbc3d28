"""A model from scratch learns sums: accuracy on held-out prompts after SFT and after GRPO, with and without a tool.

    python -m bench.sums [--seeds 0 1 2] [--examples sums sums_calculator]

Runs examples/sums.yaml and examples/sums_calculator.yaml without their reports. Every held-out prompt is answered 16
times at temperature 1 and once with the most likely tokens. ``seconds`` is the processor time of SFT and GRPO together,
with everything that the command does beside them. Writes bench/results/PROCESSOR/sums.json after every row; the rows of
other seeds and examples that stand there stay.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from bench.drive import machine, processor, save, with_earlier
from bench.turns import ROOT

SAMPLES = 16  # answers to each held-out prompt


def measure(example: str, seed: int, folder: Path) -> dict[str, Any]:
    """The numbers of one example with one seed."""
    plan = yaml.safe_load((ROOT / "examples" / f"{example}.yaml").read_text(encoding="utf-8"))
    del plan["stages"]["report"]
    (folder / "plan.yaml").write_text(yaml.safe_dump(plan), encoding="utf-8")
    before = os.times()
    command = [sys.executable, "-m", "concordant", "run", "plan.yaml", "--output", "run", f"--seed={seed}"]
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    subprocess.run(command, check=True, cwd=folder, env={**os.environ, "PYTHONPATH": paths})
    after = os.times()
    seconds = sum(after[2:4]) - sum(before[2:4])
    row: dict[str, Any] = {"example": example, "seed": seed, "seconds": round(seconds)}
    for stage in ("sft", "ppo"):
        row |= accuracy(str(folder / "run" / stage / "model"), plan["stages"]["ppo"], stage)
    return row


def accuracy(model: str, ppo: dict[str, Any], name: str) -> dict[str, float]:
    """The share of right answers to held-out prompts, sampled and most likely, and the mean number of turns."""
    from concordant import DataConfig, ModelConfig, SamplingConfig
    from concordant.algorithms.reward_sources import make_reward
    from concordant.config.environment import EnvironmentConfig
    from concordant.data.chat import ChatEncoder
    from concordant.data.records import Prompt
    from concordant.data.splits import load_records
    from concordant.stages import common

    data, place = DataConfig("builtin:sums"), ModelConfig(model, device="cpu", precision="fp32")
    policy = common.open_policy(place, data, [])
    encoder = ChatEncoder(policy.tokenizer, common.limits_of(data, policy))
    environments = common.environments_of(EnvironmentConfig(**ppo.get("environment", {})))
    sampler = common.sampler_of(policy, encoder, place, environments=environments)
    prompts = load_records(data, Prompt, seed=0).test
    found: dict[str, float] = {}
    for way, n, temperature in (("sampled", SAMPLES, 1.0), ("likely", 1, 0.0)):
        longest = ppo["sampling"]["max_new_tokens"]
        sampling = SamplingConfig(n=n, temperature=temperature, max_new_tokens=longest, slots=256)
        answers = sampler(prompts, sampling, seed=1).answers
        scores = make_reward(["rule:number"], _no_model)(answers).result().total
        found[f"{name}_{way}"] = round(sum(scores) / len(scores), 4)
        turns = [1 if a.episode is None else len(a.episode.turns[::2]) for a in answers]
        found[f"{name}_{way}_turns"] = round(sum(turns) / len(turns), 2)
    return found


def _no_model(name: str) -> Any:
    raise ValueError(f"{name} is no rule")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--examples", nargs="+", default=["sums", "sums_calculator"])
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    path = ROOT / "bench" / "results" / processor() / "sums.json"
    for example in given.examples:
        for seed in given.seeds:
            with tempfile.TemporaryDirectory() as folder:
                rows.append(measure(example, seed, Path(folder)))
            print(rows[-1], flush=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            save(path, {"machine": machine(), "rows": with_earlier(path, rows, ("example", "seed"))})


if __name__ == "__main__":
    main()
