"""The doctor on TRL's own logs: 30 runs of TRL with one planted fault each, and healthy ones.

    python -m bench.foreign make [--only TEXT] [--folder DIR]   # the runs; each keeps trainer_state.json alone
    python -m bench.foreign look [--only TEXT] [--folder DIR]   # what the doctor says of each

``make`` trains a small policy and a reward model on toytalk once, and then runs ``bench.foreign_trl`` in .venv-parity
for every fault of ``bench/foreign_faults.py``. ``look`` prints the planted cause, what is right, and the diagnosis.
Whether the first finding names the cause is for a reader to judge: a fault names no rule, so that the list stays as it
is when the rules change. ``look`` itself counts one thing: an all-clear, that is no warning and no list of rules that
did not look.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.doctor_world import PRESETS, World, drawn_pairs, small_world
from bench.foreign_faults import HEALTHY, PLANTED, Planted
from concordant.doctor.finding import at_least
from concordant.stages.doctor import examine
from tests.parity.run import PYTHON, QUIET, ROOT, install

FOLDER = ROOT / "runs" / "bench-foreign"
STATE = "trainer_state.json"
SIZE = "doctor-a"


def make_world(folder: Path) -> Path:
    """``policy`` and ``reward`` in Hugging Face's layout, and ``pairs.json`` with plain texts."""
    world = folder / "world"
    if (world / "pairs.json").is_file():
        return world
    with small_world(world):
        made = World(world)
        made.make([SIZE])
        for name, source in (("policy", made.sft(SIZE)), ("reward", made.reward(SIZE))):
            if not (world / name).exists():
                (world / name).symlink_to(source.resolve())
        drawn = drawn_pairs(world)
    sides = {
        side: [
            {"prompt": p.prompt[0].content, "chosen": p.chosen, "rejected": p.rejected}
            for p in drawn[f"{PRESETS[0]} {side}"]
        ]
        for side in ("train", "held-out")
    }
    (world / "pairs.json").write_text(json.dumps(sides), encoding="utf-8")
    return world


def make(planted: Planted, world: Path, folder: Path) -> str:
    """Run TRL, unless its log is there; what happened, in a few words."""
    output = folder / planted.name
    if (output / STATE).is_file():
        return "is there"
    output.mkdir(parents=True, exist_ok=True)
    environment = os.environ | QUIET | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [str(PYTHON), "-m", "bench.foreign_trl", planted.name, str(world), str(output)]
    started = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        (output / "error.log").write_text(done.stderr, encoding="utf-8")
        return f"failed: {done.stderr.strip().splitlines()[-1][:200] if done.stderr.strip() else done.returncode}"
    return f"{time.perf_counter() - started:.0f} s"


def look(planted: Planted, folder: Path) -> dict[str, Any]:
    diagnosis = examine(str(folder / planted.name / STATE))
    grave = [f for f in diagnosis.findings if at_least(f.severity, "warning")]
    return {
        **asdict(planted),
        "facts": dict(diagnosis.facts),
        "findings": [f.as_event() for f in diagnosis.findings],
        "unseen": dict(diagnosis.unseen),
        "all_clear": not grave and not diagnosis.unseen,
    }


def show(result: dict[str, Any]) -> str:
    lines = [f"## {result['name']}", f"planted   {result['cause']}", f"right     {result['right']}"]
    lines += [f"evidence  {result['evidence'] or 'not in the log'}"]
    lines += [f"{f['severity']:9} {f['rule']}: {f['seen']}. {f['cause']}. {f['cure']}" for f in result["findings"]]
    lines += ["" if result["findings"] else "nothing found"]
    return "\n".join([*lines, f"rules that did not look: {len(result['unseen'])}", ""])


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("make", "look"))
    parser.add_argument("--only", default="", help="runs whose name contains this")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    given = parser.parse_args(arguments)
    chosen = [p for p in (*PLANTED, *HEALTHY) if given.only in p.name]
    if given.what == "make":
        install()
        world = make_world(given.folder)
        for planted in chosen:
            print(f"{planted.name:18} {make(planted, world, given.folder)}", flush=True)
        return
    there = [p for p in chosen if (given.folder / p.name / STATE).is_file()]
    results = [look(planted, given.folder) for planted in there]
    print("\n".join(map(show, results)))
    (given.folder / "diagnoses.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    clear = [r["name"] for r in results if r["all_clear"] and r["cause"] != "healthy"]
    print(f"{len(results)} of {len(chosen)} runs; false all-clears: {', '.join(clear) or 'none'}")


if __name__ == "__main__":
    main(sys.argv[1:])
