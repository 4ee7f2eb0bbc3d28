"""The list of planted bugs cannot rot: every bug still fits the code, and its tests are there. None is planted here."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import concordant
from tests.mutants.mutant import Mutant, OutOfDate
from tests.mutants.planted import MUTANTS
from tests.mutants.processes import Outcome, read_outcome

PACKAGE = Path(concordant.__file__).parent
TESTS = Path(__file__).parent


def functions_of(path: Path) -> set[str]:
    return {node.name for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_planted_bug_still_fits_the_code_and_its_tests_are_there(mutant):
    source = (PACKAGE / mutant.file).read_text(encoding="utf-8")
    changed = mutant.mutated(source)
    assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(source)), "the new text must be other code"
    assert mutant.story.endswith(".") and mutant.tests
    for test in mutant.tests:
        file, _, function = test.partition("::")
        assert (TESTS / file).is_file(), f"{mutant.name}: there is no tests/{file}"
        assert not function or function in functions_of(TESTS / file), f"{mutant.name}: {file} has no {function}"


def test_every_folder_of_the_package_has_planted_bugs():
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    planted = Counter(mutant.folder for mutant in MUTANTS)
    assert set(planted) == folders and min(planted.values()) >= 4 and planted.total() >= 60


def test_names_are_unique():
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


def made(old):
    return Mutant(name="x", file="core/a.py", old=old, new="3", story="A number is wrong.", tests=("core/test_a.py",))


@pytest.mark.parametrize(("old", "count"), [("7", 0), ("1", 2)])
def test_a_bug_whose_code_has_moved_is_named(old, count):
    with pytest.raises(OutOfDate, match=f"x: concordant/core/a.py has the old text {count} times, expected once"):
        made(old).mutated("a = 1\nb = 1 + 2\n")


def test_a_bug_is_planted_once_and_nothing_else_changes(tmp_path):
    file = tmp_path / "concordant" / "core" / "a.py"
    file.parent.mkdir(parents=True)
    file.write_text("a = 1\nb = 2\n")
    made("2").plant(tmp_path)
    assert file.read_text() == "a = 1\nb = 3\n"


def test_a_bug_is_caught_by_a_test_that_fails_and_by_nothing_else():
    """A test that cannot even be read says nothing about a subtle bug."""
    failed = "F\nFAILED tests/core/test_a.py::test_one - assert 1 == 2\n1 failed in 0.1s\n"
    assert read_outcome(0, "3 passed in 0.1s\n") == Outcome(True, "")
    assert read_outcome(1, failed) == Outcome(False, "tests/core/test_a.py::test_one")
    for code, output in ((2, "ERROR tests/core/test_a.py\n"), (4, "not found"), (5, "no tests ran")):
        outcome = read_outcome(code, output)
        assert not outcome.passed and outcome.broken


RUNS = """
from tests.mutants import processes
from tests.mutants.processes import Work, outcomes

def written(text):
    def change(root):
        (root / "tests").mkdir(parents=True)
        (root / "tests" / "test_x.py").write_text(text)
    return change

texts = {
    "well": "def test_a(): pass",
    "sick": "def test_a(): pass\\ndef test_b(): assert 1 == 2",
    "unreadable": "def",
    "hangs": "import time\\ndef test_a(): time.sleep(60)",
}
processes.COPIED, processes.LOADED = (), ("pytest",)
works = [Work(name, ["test_x.py"], written(text)) for name, text in texts.items()]
for some, seconds in ((works[:3], 60.0), (works[3:], 2.0)):
    for name, outcome in outcomes(some, jobs=3, seconds=seconds):
        print(name, outcome.passed, outcome.by or outcome.broken.splitlines()[:1])
"""


def test_every_copy_is_run_apart_and_one_that_hangs_is_ended():
    done = subprocess.run(
        [sys.executable, "-c", RUNS], cwd=TESTS.parent, capture_output=True, text=True, timeout=300, check=True
    )
    assert sorted(done.stdout.splitlines()) == [
        "hangs False the time limit of 2 s",
        "sick False tests/test_x.py::test_b",
        "unreadable False ['pytest ended with code 2:']",
        "well True []",
    ]
