"""Sampling by turns: ours and vLLM's CPU build, the same model, prompts and threads. `make vllm` makes its environment.

    python -m bench.vllm [--model "13.8 M"] [--precision fp32] [--runs 5] [--preload LIBRARY …] [--quick]

Three live processes take turns: ours; vLLM by its own front, compiled, without log-probs and seeds; vLLM as our
``VllmGenerator``. Every response goes to its limit. Beside the time on the wall stands the processor's time (of all
threads, over their number), which other programs on the machine lengthen less. ``--preload`` names libraries that
vLLM's documentation asks for on a CPU, tcmalloc and Intel's OpenMP; vLLM's processes get them in LD_PRELOAD. Results go
to bench/results/PROCESSOR/vllm[-…].json and .md.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.drive import LOGS, Others, busy_note, machine, processor, save
from bench.ratios import ratio
from bench.turns import ROOT, Side

PYTHON = ROOT / ".venv-vllm" / "bin" / "python"
SIDES = ("ours", "vLLM", "vLLM as our generator")
MODELS = ("13.8 M", "110 M")
AIM, SHARE_AIM = 1.5, 35  # times as fast as vLLM; per cent of the GEMM rate


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default=MODELS[0])
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--preload", nargs="*", default=[], metavar="LIBRARY")
    parser.add_argument("--quick", action="store_true", help="one small run, to see that it runs")
    parser.add_argument("--output", type=Path, default=ROOT / "bench" / "results" / processor())
    args = parser.parse_args(arguments)
    if not PYTHON.is_file():
        parser.error("there is no .venv-vllm; make it with `make vllm`")
    if args.quick:
        args.runs, args.prompts, args.new_tokens = 1, 4, 8
    name = "vllm" + ("" if args.model == MODELS[0] else "-" + args.model.replace(" ", "").lower())
    name += "" if args.precision == "fp32" else f"-{args.precision}"
    text = ""
    for record in compare(args):
        text = table(record)
        if not args.quick:
            args.output.mkdir(parents=True, exist_ok=True)
            save(args.output / f"{name}.json", record)
            (args.output / f"{name}.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


def compare(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One warm-up turn each, and then ``runs`` turns. The record so far after every round, for it may take an hour."""
    names = ("model", "precision", "prompts", "new_tokens", "threads")
    settings = {name: getattr(args, name) for name in names} | {"device": "cpu"}
    preload = ":".join(args.preload)
    others, sides = Others(), []
    try:
        for name in SIDES:
            python, extra = (Path(sys.executable), {}) if name == "ours" else (PYTHON, {"LD_PRELOAD": preload})
            log = LOGS / f"{name.replace(' ', '-')}.log"
            sides.append(Side(name, python, "bench.vllm_sides", settings | {"side": name}, [], log, extra))
        turns: dict[str, list[dict[str, Any]]] = {name: [] for name in SIDES}
        for run in range(args.runs + 1):
            for side in sides:
                turn = side.turn()
                turns[side.name].append(turn)
                times = f"{turn['seconds']:.1f} s, busy {turn['busy_seconds']:.1f} s"
                print(f"  {run or 'warm-up'} {side.name} {times}", flush=True)
            if run:
                yield {
                    "settings": settings | {"preload": [Path(p).name for p in args.preload]},
                    "machine": machine() | {"other_cores": others.cores()},
                    "facts": {side.name: side.facts for side in sides},
                    "turns": turns,  # the first of each is the warm-up
                }
    finally:
        for side in sides:
            side.close()


def table(record: dict[str, Any]) -> str:
    settings, turns = record["settings"], {name: found[1:] for name, found in record["turns"].items()}
    kinds = ("seconds", "busy_seconds")
    times = {kind: {name: [t[kind] for t in found] for name, found in turns.items()} for kind in kinds}
    lines = [
        f"Llama of {settings['model']}, {settings['precision']}, {settings['prompts']} prompts of mixed length, "
        f"{settings['new_tokens']} new tokens each, threads: {settings['threads']}; aims: {AIM:g} times vLLM, "
        f"{SHARE_AIM} % of the GEMM rate. vLLM's processes preload: {', '.join(settings['preload']) or 'nothing'}.",
        "",
        "| side | tokens a second of processor time | ours is faster by, on the wall (least–greatest) "
        "| in processor time | share of the GEMM rate |",
        "|---|---|---|---|---|",
    ]
    for name, found in turns.items():
        rate = statistics.median(t["tokens"] / t["busy_seconds"] for t in found)
        # Each turn by the product that was timed after our turn of the same round.
        rounds = list(zip(found, turns["ours"], strict=True))
        shares = [100 * t["flops"] / t["busy_seconds"] / own["gemm_flops"] for t, own in rounds]
        gains = ["" if name == "ours" else str(ratio(times[kind][name], times[kind]["ours"])) for kind in kinds]
        share = f"{statistics.median(shares):.0f} % ({min(shares):.0f}–{max(shares):.0f})"
        lines.append(f"| {name} | {rate:,.0f} | {gains[0]} | {gains[1]} | {share} |")
    note = busy_note(record["machine"]["other_cores"])
    return "\n".join(lines) + (f"\n\nThis was {note}.\n" if note else "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
