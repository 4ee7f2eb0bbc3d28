"""Faults of kinds that the doctor's rules were not made with, gathered from public threads, and healthy runs.

    python -m bench.doctor_strange [--set 2] --make FOLDER [--only TEXT] [--healthy N]
    python -m bench.doctor_strange [--set 2] --diagnose FOLDER

The cases stood written down before the rules were changed, and whoever wrote them had not read the rules. Each has the
thread in which users wrote of such a fault, what the users saw, the cause, and what a doctor must say to be right.
Users cause faults by files, settings, own reward functions and model folders; so do the cases, and no case knows the
true quality of an answer. ``named`` marks cases whose kind is an example in the text that asked for this set.

--make makes the runs, each once, and never asks for a diagnosis. --diagnose writes what the doctor says of each into
bench/results/doctor_strange.json (doctor_strange2.json for the second set). Whether the first finding names the cause
is for a reader to judge, since a case names no rule; the reader's words are in bench/results/doctor_strange_read.json.
A folder FOLDER/NAME has ``files`` (what the user has), ``run`` (what the run wrote, without weights) and ``made.json``
(seconds, and the error of a run that ended with one).
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
import traceback
import zlib
from collections.abc import Callable
from contextlib import chdir
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from transformers.utils.logging import disable_progress_bar

from bench import doctor_strange2_healthy
from bench.doctor_runs import STAGES
from bench.doctor_strange2_models import MODELS as MODELS_2
from bench.doctor_strange2_pairs import PAIRS as PAIRS_2
from bench.doctor_strange2_rewards import REWARDS as REWARDS_2
from bench.doctor_strange2_settings import SETTINGS as SETTINGS_2
from bench.doctor_strange2_texts import TEXTS as TEXTS_2
from bench.doctor_strange_answers import ANSWERS
from bench.doctor_strange_healthy import healthy
from bench.doctor_strange_models import MODELS
from bench.doctor_strange_pairs import PAIRS
from bench.doctor_strange_rewards import REWARDS
from bench.doctor_strange_settings import SETTINGS
from bench.doctor_strange_tools import FILES, RUN, Case
from bench.doctor_world import World, small_world
from concordant.config.checks import validate
from concordant.config.stages import DPOConfig, PPOConfig, RewardConfig, RunConfig
from concordant.core.errors import RunFailed, RunStopped, UserError
from concordant.doctor.finding import Diagnosis
from concordant.doctor.run_folders import diagnose_run

CASES: tuple[Case, ...] = (*ANSWERS, *PAIRS, *SETTINGS, *REWARDS, *MODELS)
HEALTHY = healthy  # (number, world, folder): the config of a healthy run
CASES_2: tuple[Case, ...] = (*TEXTS_2, *PAIRS_2, *SETTINGS_2, *REWARDS_2, *MODELS_2)
MADE = "made.json"
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class FaultSet:
    """Cases that one person gathered, and healthy runs beside them."""

    cases: tuple[Case, ...]
    healthy: Callable[[int, World, Path], RunConfig]
    results: Path


SETS = {
    1: FaultSet(CASES, HEALTHY, RESULTS / "doctor_strange.json"),
    2: FaultSet(CASES_2, doctor_strange2_healthy.healthy, RESULTS / "doctor_strange2.json"),
}


def seed_of(name: str) -> int:
    """One seed for each case, from its name."""
    return 30_000 + zlib.crc32(name.encode()) % 10_000


def stage_of(config: RunConfig) -> str:
    kinds = ((DPOConfig, "dpo"), (PPOConfig, "ppo"), (RewardConfig, "reward"))
    return next((stage for kind, stage in kinds if isinstance(config, kind)), "sft")


def run(folder: Path, make: Callable[[], RunConfig]) -> dict[str, Any]:
    """Make the run in ``folder``, unless it is there from before; what made.json says of it."""
    if (folder / MADE).is_file():
        return dict(json.loads((folder / MADE).read_text(encoding="utf-8")))
    shutil.rmtree(folder, ignore_errors=True)
    (folder / FILES).mkdir(parents=True)
    started, error, seed = time.perf_counter(), "", 0
    try:
        config = make()
        validate(config)
        seed = config.seed
        with chdir(folder / FILES):  # a reward function lies where the user types the command
            STAGES[stage_of(config)](config)
    except RunStopped:  # somebody stopped the command: the run is made anew the next time
        raise
    except (UserError, RunFailed) as ended:
        error = f"{type(ended).__name__}: {ended}"
    except Exception:  # a defect of the product: kept as it is, so that it can be reported
        error = traceback.format_exc()
    for weights in (folder / RUN).glob("**/*.safetensors"):
        weights.unlink()
    made = {"seconds": round(time.perf_counter() - started, 2), "seed": seed, "error": error}
    (folder / MADE).write_text(json.dumps(made, indent=1), encoding="utf-8")
    return made


def diagnosed(folder: Path) -> dict[str, Any]:
    """What the doctor says of the run in ``folder``, the likeliest cause first. A clear error is said too."""
    made = json.loads((folder / MADE).read_text(encoding="utf-8"))
    found = diagnose_run(folder / RUN) if (folder / RUN).is_dir() else Diagnosis({}, [])
    grave = [f for f in found.findings if f.severity != "info"]
    said = [{"rule": f.rule, "severity": f.severity, "seen": f.seen, "cause": f.cause, "cure": f.cure} for f in grave]
    return {"name": folder.name, "error": made["error"].strip()[-400:], "said": said}


def diagnose_all(root: Path, cases: tuple[Case, ...]) -> dict[str, list[dict[str, Any]]]:
    """The cases and the healthy runs that ``root`` has."""
    about = {c.name: {"named": c.named, "cause": c.cause, "right": c.right} for c in cases}
    there = [case.name for case in cases if (root / case.name / MADE).is_file()]
    healthy_ones = sorted(path.parent for path in root.glob(f"healthy-*/{MADE}"))
    return {
        "cases": [about[name] | diagnosed(root / name) for name in there],
        "healthy": [diagnosed(folder) for folder in healthy_ones],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--make", type=Path, help="folder of the runs; runs that are there are kept")
    parser.add_argument("--diagnose", type=Path, help="folder of runs that --make has made")
    parser.add_argument("--set", type=int, default=1, choices=sorted(SETS), help="which set of cases")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--healthy", type=int, default=0, help="make so many healthy runs instead of the cases")
    given = parser.parse_args()
    chosen = SETS[given.set]
    if given.diagnose:
        found = diagnose_all(given.diagnose, chosen.cases)
        chosen.results.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        return
    if not given.make:
        parser.error("--make FOLDER or --diagnose FOLDER is required")
    disable_progress_bar()
    root = given.make.resolve()
    world, seconds = World(root / "world"), 0.0
    with small_world(world.folder):
        world.make()
        planned: list[tuple[str, Callable[[], RunConfig]]] = []
        for number in range(given.healthy):
            name = f"healthy-{number:03d}"
            planned.append((name, partial(chosen.healthy, number, world, root / name)))
        for case in () if given.healthy else chosen.cases:
            if given.only in case.name:
                planned.append((case.name, partial(case.make, world, root / case.name, seed_of(case.name))))
        for name, make in planned:
            made = run(root / name, make)
            seconds += made["seconds"]
            print(f"{made['seconds']:5.1f}s {name} {made['error'].strip()[-300:]}", flush=True)
    print(f"{len(planned)} runs, {seconds:.0f} seconds")


if __name__ == "__main__":
    main()
