"""``concordant prepare`` on up to 160,000 HH pairs, and how long ``concordant --help`` takes.

The pairs are those of ``bench.material``, again and again, each time with another number in the question, so that
prompts differ as real ones do. Seconds and peak memory are those of the whole command, imports included.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench import material
from bench.drive import Others
from bench.turns import ROOT, peak_mib
from concordant.data.dialogue import write_prompt

ROWS = (40_000, 80_000, 160_000)
AIMS = "aims: 160,000 pairs in 90 s and 2,048 MiB, linear in rows; `concordant --help` in 0.5 s"
HELP_RUNS = 5


def write_rows(path: Path, count: int) -> None:
    """HH's own form: both dialogues whole."""
    with (material.make() / "pairs.jsonl").open(encoding="utf-8") as file:
        pairs = [json.loads(line) for line in file]
    with path.open("w", encoding="utf-8") as file:
        for i in range(count):
            pair = pairs[i % len(pairs)]
            messages = material.messages_of(pair)
            prompt = write_prompt(messages) if len(messages) > 1 else f"\n\nHuman: {messages[0].content}\n\nAssistant:"
            prompt = prompt.replace("\n\nHuman:", f"\n\nHuman: {i // len(pairs)}:", 1)
            row = {side: f"{prompt} {pair[side]}" for side in ("chosen", "rejected")}
            file.write(json.dumps(row) + "\n")


def prepared(data: Path, output: Path) -> dict[str, float]:
    start = time.perf_counter()
    command = [sys.executable, "-m", "bench.prepare", "--child", str(data), "--output", str(output)]
    done = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True)
    return {"seconds": time.perf_counter() - start, "peak_mib": float(done.stdout.split()[-1])}


def help_seconds() -> list[float]:
    times = []
    for _ in range(HELP_RUNS + 1):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "concordant", "--help"], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - start)
    return times[1:]


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=0, help="taken for the sake of the driver; one is used")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--child", type=Path, help="run the command on this file, and print the process's peak, MiB")
    args = parser.parse_args(arguments)
    if args.child:
        from concordant.cli import main as command

        command(["prepare", "--data", str(args.child), "--output", str(args.output)])
        print(peak_mib())
        return
    others = Others()
    made: dict[int, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for count in (1_000, 2_000) if args.quick else ROWS:
            data = Path(scratch) / f"{count}.jsonl"
            write_rows(data, count)
            made[count] = prepared(data, Path(scratch) / f"prepared-{count}")
            data.unlink()
    waited = help_seconds()
    args.output.mkdir(parents=True, exist_ok=True)
    record = {"prepare": made, "help_seconds": waited}
    (args.output / "prepare.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    lines = ["| rows | seconds | ms a row | peak MiB |", "|---|---|---|---|"]
    for count, run in made.items():
        each = 1000 * run["seconds"] / count
        lines.append(f"| {count:,} | {run['seconds']:.1f} | {each:.3f} | {run['peak_mib']:,.0f} |")
    shown = f"{statistics.median(waited):.2f} s ({min(waited):.2f}–{max(waited):.2f})"
    lines += ["", f"`concordant --help`: {shown}. {AIMS[0].upper()}{AIMS[1:]}."]
    busy = others.note()
    lines += ["", f"This was {busy}."] if busy else []
    (args.output / "prepare.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
