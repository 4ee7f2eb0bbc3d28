"""README's commands on a small set of pairs, with no setting of training given: does every stage improve on its start?

    python -m bench.chain [--pairs 300] [--model builtin:small] [--output runs/chain]

The pairs are of toytalk, written to a file as a user's own would be. A line a stage: its steps, its rate, and the
held-out number before and after.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LN2 = 0.6931


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=300)
    parser.add_argument("--model", default="builtin:small")
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "chain")
    args = parser.parse_args(arguments)
    place = args.output
    place.mkdir(parents=True, exist_ok=True)
    data = write_pairs(place / "pairs.jsonl", args.pairs)

    def run(verb: str, *options: str) -> None:
        command = [sys.executable, "-m", "concordant", verb, "--data", str(data), *options]
        subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    model, reward = str(place / "sft" / "model"), str(place / "reward" / "model")
    run("sft", "--model.name", args.model, "--responses", "chosen", "--output", str(place / "sft"))
    run("reward", "--model.name", model, "--output", str(place / "reward"))
    run("dpo", "--model.name", model, "--beta", "0.3", "--output", str(place / "dpo"))
    run("ppo", "--model.name", model, "--reward", reward, "--output", str(place / "ppo"))
    policies = [f"{name}={place / name / 'model'}" for name in ("sft", "dpo", "ppo")]
    run("evaluate", "--policies", *policies, "--reward", reward, "--output", str(place / "report"))
    return 0 if report(place) else 1


def write_pairs(path: Path, count: int) -> Path:
    from concordant.data.toytalk import training_pairs

    drawn = random.Random(0).sample(training_pairs(), count)
    rows = [
        {
            "prompt": [{"role": m.role, "content": m.content} for m in pair.prompt],
            "chosen": pair.chosen,
            "rejected": pair.rejected,
        }
        for pair in drawn
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def report(place: Path) -> bool:
    """Print a line a stage; whether every stage is better than its start."""
    evaluated = json.loads((place / "report" / "report.json").read_text(encoding="utf-8"))
    reward = {name: policy["reward_mean"] for name, policy in evaluated["policies"].items()}
    heldout = json.loads((place / "reward" / "reward_model.json").read_text(encoding="utf-8"))
    first, last = (rows(place / "sft")[i] for i in (0, -1))
    dpo = max(r["eval/rewards/accuracies"] for r in rows(place / "dpo") if r.get("eval/rewards/accuracies") is not None)
    stages = {
        "sft": ("loss a token", first["loss"], last["eval/loss"], last["eval/loss"] < first["loss"]),
        "reward": ("accuracy", 0.5, heldout["accuracy"], heldout["accuracy"] > 0.5),
        "dpo": ("pairs ranked right", 0.5, dpo, dpo > 0.5),
        "ppo": ("reward", reward["sft"], reward["ppo"], reward["ppo"] > reward["sft"]),
    }
    for name, (what, before, after, better) in stages.items():
        seen = rows(place / name)
        rate = max(row["learning_rate"] for row in seen)
        change = f"held-out {what} {before:.3f} -> {after:.3f}, {'better' if better else 'NOT BETTER'}"
        print(f"{name}: {seen[-1]['step']} steps, rate {rate:.2g}; {change}")
    return all(better for *_, better in stages.values())


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
