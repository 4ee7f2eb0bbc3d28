"""Checks a learner's file: what it does is compared with the solution, and then with every known mistake."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from concordant.core.errors import UserError
from concordant.course.exercise import Exercise, Mistake, Observed
from concordant.runs.names import RESULT

SECONDS = 60.0  # that the tests of one file may take
TOLERANCE = 1e-4  # of the numbers, absolute and relative


@dataclass(frozen=True, slots=True)
class Verdict:
    passed: bool
    says: str  # whole sentences
    mistake: str = ""  # the name of the known mistake that the file matches


def check(exercise: Exercise, file: Path, seconds: float = SECONDS) -> Verdict:
    """The verdict on ``file``. It runs in a process of its own, which is ended after ``seconds``."""
    if not file.is_file():
        raise UserError(f"{file} is not there; write the skeleton by `concordant course start {exercise.number}`")
    with tempfile.TemporaryDirectory() as place:
        result = Path(place) / RESULT
        command = [sys.executable, "-m", "concordant.course.runner", str(exercise.number), str(file.resolve())]
        try:
            done = subprocess.run(
                [*command, str(result)], capture_output=True, text=True, errors="replace", timeout=seconds
            )
        except subprocess.TimeoutExpired:
            return Verdict(False, f"The file did not come to an end in {seconds:g} seconds. Is there an endless loop?")
        if not result.is_file():
            last = done.stderr.strip().splitlines()[-1:] or ["no message"]
            return Verdict(False, f"The file ended the process before the tests were over ({last[0][:200]}).")
        return judged(exercise, json.loads(result.read_text(encoding="utf-8")))


def judged(exercise: Exercise, seen: dict[str, Any]) -> Verdict:
    """The verdict on what ``runner.seen`` has seen of a file."""
    if "error" in seen:
        where = f" (line {seen['line']})" if seen["line"] else ""
        return Verdict(False, f"{seen['error']}{where}")
    observed, expected = plain(seen["observed"]), expected_of(exercise)
    wrong = differences(observed, expected)
    if not wrong:
        return Verdict(True, "All tests pass.")
    for mistake in exercise.mistakes:
        if not differences(observed, known(exercise, mistake)):
            return Verdict(False, mistake.says, mistake.name)
    matching = [m for m in exercise.mistakes if _explains(observed, expected, known(exercise, m), wrong)]
    if len(matching) == 1:
        return Verdict(False, f"{matching[0].says} Something else is wrong too.", matching[0].name)
    first = wrong[0]
    says = f"{first[:1].upper()}{first[1:]}: expected {shown(expected[first])}, and your file gives "
    return Verdict(False, f"{says}{shown(observed.get(first))}. No known mistake gives this.")


def _explains(observed: Observed, expected: Observed, mistaken: Observed, wrong: list[str]) -> bool:
    """Whether the mistake gives the file's numbers in one test or more that the mistake fails, and in all of those."""
    affected = [key for key in differences(mistaken, expected) if key in wrong]
    return bool(affected) and set(differences(mistaken, expected)) == set(affected) & set(
        key for key in affected if same(observed.get(key), mistaken.get(key))
    )


def differences(observed: Observed, expected: Observed) -> list[str]:
    """What was asked, where the two differ."""
    return [key for key, value in expected.items() if not same(observed.get(key), value)]


def same(a: Any, b: Any) -> bool:
    """Whether two values are equal, numbers within the tolerance."""
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, bool) or isinstance(b, bool) or not (isinstance(a, int | float) and isinstance(b, int | float)):
        return type(a) is type(b) and a == b
    return (math.isnan(a) and math.isnan(b)) or math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=TOLERANCE)


def shown(value: Any) -> str:
    """A value in short, numbers with four digits."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return "[" + ", ".join(map(shown, value[:6])) + (", …]" if len(value) > 6 else "]")
    return str(value)


def plain(observed: Observed) -> Observed:
    """As it comes through JSON: tuples become lists."""
    return json.loads(json.dumps(observed))


@cache
def expected_of(exercise: Exercise) -> Observed:
    return plain(exercise.observe(module_of(exercise.solution)))


@cache
def known(exercise: Exercise, mistake: Mistake) -> Observed:
    """What is observed of a file with this mistake."""
    return plain(exercise.observe(module_of(mistake.of(exercise.solution))))


def module_of(source: str) -> ModuleType:
    """The module of a solution of ours, with a mistake or without."""
    module = ModuleType("solution")
    exec(compile(source, "<solution>", "exec"), vars(module))
    return module
