"""``make mutants``: plants each bug of the list in a copy of the repository and says which test notices it.

    python -m tests.mutants [--only NAME …] [--jobs N] [--seconds N]

First the named tests must pass without a bug, once for each set of tests. Then every bug gets a fresh copy, in which
its tests run until the first one fails. The exit code is 0 if every bug is caught, 1 if a bug survives, and 2 if the
list is out of date or if tests do not run or do not pass without a bug.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from tests.mutants.mutant import Mutant, OutOfDate
from tests.mutants.planted import MUTANTS

ROOT = Path(__file__).resolve().parents[2]
# Tests read these beside the package. Hidden folders, results of runs and compiled files are left out.
COPIED = ("concordant", "tests", "bench", "docs", "examples", "README.md", "CHANGELOG.md", "pyproject.toml")
LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "results")
SECONDS = 300  # for the tests of one bug, which take seconds; a bug that hangs is stopped
_FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Outcome:
    passed: bool  # every test passed
    by: str  # the first test that failed, the time limit, or ""
    broken: str = ""  # why the tests could not run at all, else ""


def read_outcome(code: int, output: str) -> Outcome:
    """What pytest's exit code and its output mean."""
    if code == 0:
        return Outcome(True, "")
    found = _FAILED.search(output)
    if code == 1 and found:
        return Outcome(False, found[1])
    return Outcome(False, "", f"pytest ended with code {code}:\n{output[-2000:]}")


def run_tests(tests: Sequence[str], mutant: Mutant | None, seconds: float) -> Outcome:
    """Run ``tests`` in a fresh copy of the repository, with ``mutant`` planted in it."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        root = Path(folder)
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, root / name, ignore=LEFT_OUT)
            elif source.exists():
                shutil.copy2(source, root / name)
        if mutant is not None:
            mutant.plant(root)
        command = [sys.executable, "-m", "pytest", "-x", "-q", "--tb=no", "-rfE", "-p", "no:cacheprovider"]
        command += [f"tests/{test}" for test in tests]
        environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            done = subprocess.run(
                command, cwd=root, env=environment, capture_output=True, text=True, errors="replace", timeout=seconds
            )
        except subprocess.TimeoutExpired:
            return Outcome(False, f"the time limit of {seconds:g} s")
        return read_outcome(done.returncode, done.stdout + done.stderr)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", default=[], help="these bugs alone")
    parser.add_argument("--jobs", type=int, default=1, help="bugs at the same time")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="time limit for the tests of a bug")
    args = parser.parse_args(arguments)
    known = {mutant.name: mutant for mutant in MUTANTS}
    if unknown := [name for name in args.only if name not in known]:
        parser.error(f"unknown bug {unknown[0]}; known: {', '.join(known)}")
    chosen = [known[name] for name in args.only] or list(MUTANTS)
    if problems := out_of_date(chosen):
        print("\n".join(problems), file=sys.stderr)
        return 2
    started = monotonic()
    with ThreadPoolExecutor(args.jobs) as pool:
        healthy = pass_unchanged(pool, list(dict.fromkeys(mutant.tests for mutant in chosen)), args.seconds)
        survivors = plant_all(pool, chosen, args.seconds) if healthy else None
    if survivors is None:
        return 2
    caught = len(chosen) - len(survivors)
    took = monotonic() - started
    print(f"{len(chosen)} planted bugs: {caught} caught, {len(survivors)} survive; {took / 60:.1f} minutes")
    print("".join(f"  survived: {mutant.name} ({mutant.file}): {mutant.story}\n" for mutant in survivors), end="")
    return 1 if survivors else 0


def out_of_date(chosen: Sequence[Mutant]) -> list[str]:
    problems = []
    for mutant in chosen:
        try:
            mutant.mutated((ROOT / "concordant" / mutant.file).read_text(encoding="utf-8"))
        except OutOfDate as problem:
            problems.append(str(problem))
    return problems


def pass_unchanged(pool: ThreadPoolExecutor, sets: Sequence[tuple[str, ...]], seconds: float) -> bool:
    """Whether every set of tests passes without a bug."""
    outcomes = list(pool.map(lambda tests: run_tests(tests, None, seconds), sets))
    for tests, outcome in zip(sets, outcomes, strict=True):
        if not outcome.passed:
            why = outcome.broken or f"{outcome.by} fails"
            print(f"without a bug {' '.join(tests)} does not pass: {why}", file=sys.stderr)
    return all(outcome.passed for outcome in outcomes)


def plant_all(pool: ThreadPoolExecutor, chosen: Sequence[Mutant], seconds: float) -> list[Mutant] | None:
    """The bugs that no test notices; None if the tests of a bug could not run."""
    survivors, all_ran = [], True
    outcomes = pool.map(lambda mutant: run_tests(mutant.tests, mutant, seconds), chosen)
    for mutant, outcome in zip(chosen, outcomes, strict=True):
        verdict = "SURVIVED" if outcome.passed else f"caught by {outcome.by}"
        if outcome.broken:
            all_ran, verdict = False, f"tests do not run, {outcome.broken}"
        elif outcome.passed:
            survivors.append(mutant)
        print(f"{mutant.folder}: {mutant.name}: {verdict}", flush=True)
    return survivors if all_ran else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
