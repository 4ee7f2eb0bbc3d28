"""``make mutants``: plants each bug of the list in a copy of the repository and says which test notices it.

    python -m tests.mutants [--only NAME …] [--start NAME] [--jobs N] [--seconds N]

First the named tests must pass without a bug, once for each set of tests. Then every bug gets a fresh copy, in which
its tests run until the first one fails. The exit code is 0 if every bug is caught, 1 if a bug survives, and 2 if the
list is out of date or if tests do not run or do not pass without a bug.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import dropwhile
from time import monotonic

from tests.mutants.mutant import Mutant, OutOfDate
from tests.mutants.planted import MUTANTS
from tests.mutants.processes import ROOT, Work, outcomes

SECONDS = 600  # for the tests of one bug, which take seconds on an idle machine; a bug that hangs is stopped


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--only", nargs="+", metavar="NAME", default=[], help="these bugs alone")
    which.add_argument("--start", metavar="NAME", help="this bug and those after it: goes on with a run that was ended")
    parser.add_argument("--jobs", type=int, default=1, help="bugs at the same time")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="time limit for the tests of a bug")
    args = parser.parse_args(arguments)
    known = {mutant.name: mutant for mutant in MUTANTS}
    first = args.start or MUTANTS[0].name
    if unknown := [name for name in (*args.only, first) if name not in known]:
        parser.error(f"unknown bug {unknown[0]}; known: {', '.join(known)}")
    chosen = [known[name] for name in args.only] or list(dropwhile(lambda mutant: mutant.name != first, MUTANTS))
    if problems := out_of_date(chosen):
        print("\n".join(problems), file=sys.stderr)
        return 2
    started = monotonic()
    if not pass_unchanged(list(dict.fromkeys(mutant.tests for mutant in chosen)), args.jobs, args.seconds):
        return 2
    survivors = plant(chosen, args.jobs, args.seconds)
    if survivors is None:
        return 2
    minutes = (monotonic() - started) / 60
    caught = len(chosen) - len(survivors)
    print(f"{len(chosen)} planted bugs: {caught} caught, {len(survivors)} survive; {minutes:.1f} minutes")
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


def pass_unchanged(sets: Sequence[tuple[str, ...]], jobs: int, seconds: float) -> bool:
    """Whether every set of tests passes without a bug."""
    healthy = True
    for tests, outcome in outcomes([Work(tests, tests) for tests in sets], jobs, seconds):
        if outcome.passed:
            print(f"without a bug {' '.join(tests)} passes", flush=True)
        else:
            why = outcome.broken or f"{outcome.by} fails"
            print(f"without a bug {' '.join(tests)} does not pass: {why}", file=sys.stderr, flush=True)
            healthy = False
    return healthy


def plant(chosen: Sequence[Mutant], jobs: int, seconds: float) -> list[Mutant] | None:
    """Plant each bug and print a line for it. Returns the survivors; None if the tests of a bug could not run."""
    survivors, all_ran = [], True
    works = [Work(mutant, mutant.tests, mutant.plant) for mutant in chosen]
    for mutant, outcome in outcomes(works, jobs, seconds):
        verdict = "SURVIVED" if outcome.passed else f"caught by {outcome.by}"
        if outcome.broken:
            all_ran, verdict = False, f"tests do not run, {outcome.broken}"
        elif outcome.passed:
            survivors.append(mutant)
        print(f"{mutant.folder}: {mutant.name}: {verdict}", flush=True)
    return survivors if all_ran else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
