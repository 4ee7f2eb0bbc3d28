"""Does a sick run become better if its user follows the doctor? Each cure is applied, and the run is made again.

    python -m bench.doctor_cures [--runs FOLDER …] [--folder DIR] [--set kin|strange] [--only PATTERN] [--report]

The sick runs are those of ``bench/doctor.py --set measure`` (*kin*) and of ``bench/doctor_strange.py`` (*strange*). The
first finding of each is read as its user reads it, and the cure is carried out as its text says
(bench/doctor_cures_text.py, bench/doctor_cures_deeds.py). Then the sick run and the cured run are made, from the same
start with the same seed, because no set keeps the weights of its runs. bench/doctor_cures_quality.py measures both
models by what no rule of the doctor uses. A cured run that is refused or fails is not better. A *kin* run that its cure
does not make better is at last made without its fault: if that does not make the run measurably better either, no cure
can.

--runs names folders in which those two benches have made their runs; the findings are read there. A run that is in none
of them is made first. Everything is kept in --folder, and a finished run is not made again, so that the command can be
stopped and repeated. A cure whose text changed is carried out anew; a changed text of a check before the first step is
only seen in new runs. --report only counts what is there. The numbers go to bench/results/doctor_cures.json and to the
section "Cured patients" of docs/doctor-measured.md.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, chdir, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from transformers.utils.logging import disable_progress_bar

from bench.doctor import SEEDS, changed, plan
from bench.doctor_cures_deeds import Treatment
from bench.doctor_cures_quality import MEASURES, Ruler, mean, verdict
from bench.doctor_cures_report import write
from bench.doctor_cures_text import read_cure
from bench.doctor_faults import MEASURE
from bench.doctor_runs import STAGES, healthy
from bench.doctor_strange import CASES, seed_of, stage_of
from bench.doctor_strange_tools import FILES, RUN, Desk
from bench.doctor_world import World, model, small_world, train
from concordant.config.checks import validate
from concordant.config.fields import flatten
from concordant.config.stages import RunConfig, SFTConfig
from concordant.core.errors import RunFailed, RunStopped, UserError
from concordant.doctor.finding import Finding
from concordant.doctor.run_folders import diagnose_run

ROOT = Path(__file__).resolve().parents[1]
SICK = 104  # runs of the kin set
SFT_STEPS, SFT_RATE = 100, 5e-4  # of "train SFT first", where the text gives no number
Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Patient:
    """A sick run that can be made as often as needed, always in a folder of its own name."""

    set: str  # kin | strange
    name: str
    stage: str
    fault: str  # in words
    begin: Callable[[Path], Treatment]  # writes the user's files into a folder
    end: Callable[[Path], RunConfig] | None = None  # the config without the fault, where that is known


def patients(world: World) -> Iterator[Patient]:
    for stage, seed, fault in plan(MEASURE, SICK, 0, SEEDS["measure"]):
        assert fault is not None

        def sick(folder: Path, stage: str = stage, seed: int = seed, fault: Any = fault) -> Treatment:
            config = changed(healthy(stage, seed, world, folder / RUN), fault.change)
            return Treatment(config, fault.plant, fault.kind, fault.variant)

        def well(folder: Path, stage: str = stage, seed: int = seed) -> RunConfig:
            return healthy(stage, seed, world, folder / RUN)

        yield Patient("kin", f"{stage}-{seed}", stage, fault.name.partition(": ")[2], sick, well)
    for case in CASES:

        def user(folder: Path, case: Any = case) -> Treatment:
            config = case.make(world, folder, seed_of(case.name))
            return Treatment(config, trained=str(world.sft(Desk(world, folder, seed_of(case.name)).size)))

        yield Patient("strange", case.name, case.stage, case.name.partition("-")[2].replace("-", " "), user)


# -- one run --------------------------------------------------------------------------------------


def run(treatment: Treatment, folder: Path) -> str:
    """Make the run; its error, or ""."""
    for name in [name for name in sys.modules if re.match(r"my_", name)]:  # a user's reward of another folder
        del sys.modules[name]
    files = folder / FILES
    files.mkdir(parents=True, exist_ok=True)
    try:
        config = treatment.config
        validate(config)
        with ExitStack() as stack:
            stack.enter_context(chdir(files))  # a reward function lies where the user types the command
            stack.enter_context(patch.object(sys, "path", list(sys.path)))  # without the folders of earlier runs
            if treatment.sft_first:
                config = replace(config, model=model(_sft(config, folder), config.model.lora.rank))
            stack.enter_context(treatment.plant())
            for over in treatment.over:
                stack.enter_context(over())
            STAGES[stage_of(config)](config)
    except RunStopped:
        raise
    except (UserError, RunFailed) as ended:
        return f"{type(ended).__name__}: {ended}"
    except Exception:
        return traceback.format_exc()
    return ""


def _sft(config: RunConfig, folder: Path) -> Path:
    """The model of an SFT run over the chosen answers of the run's own data, from the run's own start."""
    course = train(max_steps=SFT_STEPS, batch_size=16, learning_rate=SFT_RATE, schedule="cosine")
    made = SFTConfig(
        output=str(folder / "sft"), seed=config.seed, data=config.data, model=config.model, responses="chosen",
        train=course,
    )  # fmt: skip
    return STAGES["sft"](made) / "model"


def made(
    patient: Patient,
    way: str,
    root: Path,
    ruler: Ruler,
    treat: Callable[[Treatment], Any] | None = None,
    text: str = "",
) -> Record:
    """The record of the run after ``treat`` has followed ``text``; the one on the disk, if its text is the same."""
    folder = root / patient.set / way / patient.name
    kept = folder.with_suffix(".json")
    if kept.is_file():
        known: Record = json.loads(kept.read_text(encoding="utf-8"))
        if known["followed"] == text:
            return known
    treatment, started = patient.begin(_empty(folder)), time.perf_counter()
    if treat:
        treat(treatment)
    record: Record = {"followed": text, "done": treatment.done, "error": "", "quality": []}
    if treatment.done or not text:  # a cure that changes nothing leaves the run as it was
        record["error"] = run(treatment, folder)
        weights = folder / RUN / "model"
        if (weights / "config.json").is_file():
            record["quality"] = [round(x, 5) for x in ruler.measure(patient.stage, weights)]
    record["seconds"] = round(time.perf_counter() - started, 2)
    for heavy in folder.glob("**/*.safetensors"):
        heavy.unlink()
    kept.write_text(json.dumps(record), encoding="utf-8")
    return record


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


# -- one patient ----------------------------------------------------------------------------------


def first_finding(folder: Path) -> Finding | None:
    """The likeliest cause that ``concordant doctor`` names, at least a warning; None if it names none."""
    found = diagnose_run(folder).findings if folder.is_dir() else []
    return next((finding for finding in found if finding.severity != "info"), None)


def follow(cure: str) -> Callable[[Treatment], bool]:
    return lambda treatment: treatment.carry_out(read_cure(cure, flatten(treatment.config)))


def run_of(patient: Patient, root: Path, ruler: Ruler, runs: Sequence[Path]) -> Path:
    """The folder of the run: the one in ``root`` if it is there, else one in ``runs``, else a new one in ``root``."""
    own = root / patient.set / "sick" / patient.name / RUN
    there = [path for r in runs for path in (r / "measure" / patient.name, r / patient.name / RUN)]
    if known := [path for path in (own, *there) if path.is_dir()]:
        return known[0]
    if not any((r / patient.name).is_dir() for r in runs):  # where there is no run in it, it was refused before a step
        made(patient, "sick", root, ruler)
    return own


def seen(patient: Patient, root: Path, ruler: Ruler, runs: Sequence[Path], to_the_end: bool) -> Record:
    """What became of the patient; ``to_the_end``: also what becomes of it without its fault, where it is not better."""
    finding = first_finding(run_of(patient, root, ruler, runs))
    about: Record = {
        "set": patient.set, "name": patient.name, "stage": patient.stage, "fault": patient.fault,
        "measure": MEASURES[patient.stage],
        "rule": finding.rule if finding else "", "cure": finding.cure if finding else "",
        "sick": None, "cured": None, "without_fault": None, "curable": None, "done": [], "error": "",
    }  # fmt: skip
    if finding is None:
        return about | {"outcome": "nothing said"}
    config = patient.begin(_empty(root / "read" / patient.name)).config
    if not read_cure(finding.cure, flatten(config)):
        return about | {"outcome": "none offered"}
    sick = made(patient, "sick", root, ruler)
    cured = made(patient, "cured", root, ruler, follow(finding.cure), finding.cure)
    about |= {"sick": _mean(sick), "cured": _mean(cured), "done": cured["done"], "error": cured["error"][-300:]}
    if not cured["done"]:
        about |= {"outcome": "equal", "cured": about["sick"]}
    elif cured["error"] or not cured["quality"]:
        about |= {"outcome": "failed"}
    elif not sick["quality"]:
        about |= {"outcome": "better"}  # the sick run left no model at all
    else:
        about |= {"outcome": verdict(sick["quality"], cured["quality"])}
    if to_the_end and about["outcome"] != "better" and patient.end is not None and sick["quality"]:
        well = made(patient, "well", root, ruler, _without_fault(patient))
        curable = bool(well["quality"]) and verdict(sick["quality"], well["quality"]) == "better"
        about |= {"without_fault": _mean(well), "curable": curable}
    return about


def on_disk(patient: Patient, results: Path) -> Record:
    """What became of the patient as far as that is on the disk."""
    kept = results / f"{patient.name}.json"
    if kept.is_file():
        return dict(json.loads(kept.read_text(encoding="utf-8")))
    return {"set": patient.set, "name": patient.name, "fault": patient.fault, "rule": "", "outcome": "not made"}


def _without_fault(patient: Patient) -> Callable[[Treatment], None]:
    def treat(treatment: Treatment) -> None:
        assert patient.end is not None
        treatment.config, treatment.plant = patient.end(Path(treatment.config.output).parent), nullcontext

    return treat


def _mean(record: Record) -> float | None:
    return round(mean(record["quality"]), 4) if record["quality"] else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, nargs="*", default=[], help="folders of runs that the two benches made")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "bench-doctor-cures")
    parser.add_argument("--set", choices=("kin", "strange", "all"), default="all")
    parser.add_argument("--only", default="", help="patients whose name or fault matches this")
    parser.add_argument("--report", action="store_true", help="count the finished patients and write the results")
    given = parser.parse_args()
    disable_progress_bar()
    root = given.folder.resolve()
    root.mkdir(parents=True, exist_ok=True)
    results = root / "patients"
    if given.report:
        write([on_disk(patient, results) for patient in sorted(patients(World(root / "world")), key=lambda p: p.name)])
        return
    world, ruler = World(root / "world"), Ruler.make()
    with small_world(world.folder):
        world.make()
        asked = [
            patient
            for patient in patients(world)
            if given.set in ("all", patient.set) and re.search(given.only, f"{patient.name} {patient.fault}")
        ]
        for patient, to_the_end in [*((p, False) for p in asked), *((p, True) for p in asked if p.end)]:
            about = seen(patient, root, ruler, given.runs, to_the_end)
            results.mkdir(exist_ok=True)
            (results / f"{patient.name}.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
            shown = [about[key] for key in ("sick", "cured", "without_fault")]
            print(f"{about['outcome']:12s} {patient.name} {patient.fault}: {about['rule']} {about['done']} {shown} "
                  f"{about['error'].strip()[-160:]}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
