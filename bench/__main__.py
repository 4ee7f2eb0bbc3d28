"""``make bench``: every comparison with its peers on this machine, and what grows with the work.

    python -m bench [NAME …] [--quick] [--threads N] [--runs N]

Names: those of ``bench.comparisons``, and generation, growth, prepare; none is all. Ours and the peers are live
processes that take turns. What each turn gave goes to bench/results/PROCESSOR/NAME.json, and a table of all to
README.md there. Every processor has a folder of its own, because ratios differ between processors.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.comparisons import COMPARISONS
from bench.drive import Peer, compare, processor, save
from bench.table import write_table
from bench.turns import ROOT
from tests.parity.run import PPO_FOLDER, PYTHON, install, install_ppo

RESULTS = ROOT / "bench" / "results"
SCRIPTS = ("generation", "growth", "prepare")  # of this package, ours alone or with a peer in the same process


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [c.name for c in COMPARISONS] + list(SCRIPTS)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(known)}; none: all")
    parser.add_argument("--quick", action="store_true", help="one small run each, to see that it runs")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--runs", type=int, default=0, help="instead of each comparison's own number")
    parser.add_argument("--output", type=Path, default=None, help="instead of bench/results/PROCESSOR")
    args = parser.parse_args(arguments)
    if unknown := [name for name in args.names if name not in known]:
        parser.error(f"unknown comparison {unknown[0]}; known: {', '.join(known)}")
    output = args.output or (ROOT / "bench" / ".material" / "quick" if args.quick else RESULTS / processor())
    output.mkdir(parents=True, exist_ok=True)
    wanted = args.names or known
    chosen = [c for c in COMPARISONS if c.name in wanted]
    if chosen:
        install()
        no_ppo = install_ppo()
        material = make_material()
    for comparison in chosen:
        reason = no_ppo if comparison.work == "ppo" else ""
        if comparison.precision == "bf16" and not has_bf16():
            reason = "this CPU has no bf16 units: its bf16 products are slower than fp32 on both sides"
        comparison = comparison.quick() if args.quick else comparison
        runs = args.runs or comparison.runs
        peer = Peer(PYTHON, (PPO_FOLDER,) if comparison.work == "ppo" else ())
        record = {"skipped": reason} if reason else compare(comparison, material, args.threads, runs, peer)
        save(output / f"{comparison.name}.json", record)
        write_table(output)
    for script in (s for s in SCRIPTS if s in wanted):
        command = [sys.executable, "-m", f"bench.{script}", "--threads", str(args.threads), "--output", str(output)]
        command += ["--quick"] if args.quick else []
        command += ["--runs", str(args.runs)] if args.runs and script != "prepare" else []
        subprocess.run(command, check=True, cwd=ROOT)
        write_table(output)
    print((output / "README.md").read_text(encoding="utf-8"))
    return 0


def make_material() -> Path:
    """In a process of its own, so that this one stays small and does no work while sides take turns."""
    command = [sys.executable, "-c", "from bench import material; print(material.make())"]
    return Path(subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True).stdout.split()[-1])


def has_bf16() -> bool:
    from concordant.engines.local.precision import cpu_has_bf16

    return cpu_has_bf16()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
