"""README's commands, in the folder of a stranger, on a set of pairs of the stranger's own: does every stage improve?

    python -m bench.chain [--pairs 300] [--data FILE] [--output runs/chain] [--stages sft reward ...]

The commands are read from README.md and run as they stand there, each in ``--output``, where pairs.jsonl holds the
first pairs of ``--data`` (JSONL, may be gzipped) or, without it, pairs of toytalk. A line a stage: its steps, its rate,
and the held-out number before and after. The exit code is 1 if a stage is not better than its start.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import os
import random
import re
import shlex
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
VERBS = ("prepare", "sft", "reward", "dpo", "ppo", "evaluate")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=300)
    parser.add_argument("--data", type=Path, default=None, help="a file of pairs; without it they are toytalk's")
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "chain")
    parser.add_argument("--stages", nargs="+", choices=VERBS, default=list(VERBS), help="run these alone")
    args = parser.parse_args(arguments)
    place = args.output.resolve()
    place.mkdir(parents=True, exist_ok=True)
    pairs = toytalk_pairs(args.pairs) if args.data is None else first_lines(args.data, args.pairs)
    (place / "pairs.jsonl").write_text("".join(pairs), encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    for verb, words in readme_commands().items():
        if verb not in args.stages:
            continue
        start = time.monotonic()
        with (place / f"{verb}.log").open("w", encoding="utf-8") as log:
            command = [sys.executable, "-m", "concordant", *words]
            subprocess.run(command, check=True, cwd=place, env=environment, stdout=log, stderr=log)
        print(f"{shlex.join(['concordant', *words])}: {(time.monotonic() - start) / 60:.1f} min", flush=True)
    return 0 if report(place / "runs") else 1


def readme_commands() -> dict[str, list[str]]:
    """The words after ``concordant`` of each command of README's section on own data, by verb."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"^```\n(concordant prepare .*?)^```", text, re.MULTILINE | re.DOTALL)
    assert block, "README.md shows no chain of commands"
    lines = block[1].replace("\\\n", " ").splitlines()
    commands = {words[1]: words[1:] for words in map(shlex.split, lines)}
    assert set(VERBS) <= set(commands), f"README.md's chain has the verbs {', '.join(commands)}"
    return {verb: commands[verb] for verb in VERBS}


def first_lines(path: Path, count: int) -> list[str]:
    open_text = gzip.open if path.suffix == ".gz" else open
    with open_text(path, "rt", encoding="utf-8") as file:
        return list(islice(file, count))


def toytalk_pairs(count: int) -> list[str]:
    from concordant.data.toytalk import training_pairs

    rows = [
        {
            "prompt": [{"role": m.role, "content": m.content} for m in pair.prompt],
            "chosen": pair.chosen,
            "rejected": pair.rejected,
        }
        for pair in random.Random(0).sample(training_pairs(), count)
    ]
    return [json.dumps(row) + "\n" for row in rows]


def report(runs: Path) -> bool:
    """Print a line a stage; whether every stage is better than its start."""
    policies = json.loads((runs / "report" / "report.json").read_text(encoding="utf-8"))["policies"]
    reward = {name: policy["reward_mean"] for name, policy in policies.items()}
    sft, dpo = exported(runs / "sft"), exported(runs / "dpo")
    pairs = json.loads((runs / "reward" / "reward_model.json").read_text(encoding="utf-8"))
    first = rows(runs / "sft")[0]["loss"]
    stages = {
        "sft": f"loss {first:.3f} -> {sft['eval/loss']:.3f} nats a token",
        "reward": f"loss {math.log(2):.3f} -> {pairs['log_loss']:.3f} nats, accuracy {pairs['accuracy']:.3f}",
        "dpo": f"loss {math.log(2):.3f} -> {dpo['eval/loss']:.3f} nats, accuracy {dpo['eval/rewards/accuracies']:.3f}, "
        f"reward of answers {reward['sft']:.3f} -> {reward['dpo']:.3f}",
        "ppo": f"reward of answers {reward['sft']:.3f} -> {reward['ppo']:.3f}",
    }
    better = {
        "sft": sft["eval/loss"] < first,
        "reward": pairs["log_loss"] < math.log(2) and pairs["accuracy"] > 0.5,
        "dpo": dpo["eval/loss"] < math.log(2) and dpo["eval/rewards/accuracies"] > 0.5,
        "ppo": reward["ppo"] > reward["sft"],
    }
    for name, change in stages.items():
        seen = rows(runs / name)
        told = f"{seen[-1]['step']} steps, rate {max(row['learning_rate'] for row in seen):.2g}"
        print(f"{name}: {told}; held-out {change}: {'better' if better[name] else 'NOT BETTER'}")
    return all(better.values())


def exported(folder: Path) -> dict[str, Any]:
    """The evaluation whose weights were exported: the one with the lowest held-out loss."""
    return min((row for row in rows(folder) if row.get("eval/loss") is not None), key=lambda row: row["eval/loss"])


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
