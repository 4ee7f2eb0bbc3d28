"""Verifiable rewards: what each rule accepts, what it refuses, and what faults of the data or the code do."""

import tempfile
import time
from pathlib import Path

import pytest

from concordant.algorithms import run_code
from concordant.algorithms.reward_sources import make_reward
from concordant.algorithms.verifiers import VERIFIERS, check_rows
from concordant.core.errors import UserError
from concordant.data.records import Message, Prompt
from tests.algorithms.answers import answer, no_model

QUESTION = (Message("user", "q"),)
SCHEMA = {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}


def score(rule, text, **columns):
    return make_reward([f"rule:{rule}"], no_model)([answer(text, **columns)]).result().total[0]


@pytest.mark.parametrize(
    ("rule", "right", "wrong", "columns"),
    [
        ("number", "3 + 4 is 1,007.0", "1007 or 8", {"ground_truth": "1007"}),
        ("regex", "abc", "abcd", {"pattern": "a.c"}),
        ("json_schema", '{"a": 1}', '{"a": "1"}', {"schema": SCHEMA}),
        ("format", "<think>x</think><answer>4</answer>", "<answer>4</answer>", {}),
        ("length", "four", "fives", {"max_characters": 4}),
        ("code", "```python\ndef f(x): return x + 1\n```", "def f(x): return x", {"tests": "assert f(1) == 2"}),
    ],
)
def test_a_rule_tells_right_from_wrong(rule, right, wrong, columns):
    assert (score(rule, right, **columns), score(rule, wrong, **columns)) == (1.0, 0.0)


def test_mathematics_compares_values_and_not_texts():
    pytest.importorskip("math_verify")
    assert (score("math", "$\\frac{2}{4}$", ground_truth="0.5"), score("math", "$3$", ground_truth="0.5")) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("rule", "columns", "message"),
    [
        ("regex", {"pattern": "(a"}, "expected a regular expression as pattern"),
        ("json_schema", {"schema": {"type": "strange"}}, "expected a JSON schema"),
        ("number", {"ground_truth": "many"}, "expected a number as ground_truth"),
        ("length", {"max_characters": "many"}, "rule:length: expected a number as max_characters, found 'many'"),
        ("code", {"tests": ["assert f(1) == 2"]}, "rule:code: expected Python code as tests, found"),
    ],
)
def test_a_fault_of_the_row_is_told(rule, columns, message):
    with pytest.raises(UserError, match=message):
        score(rule, "1", **columns)
    fault = Prompt(QUESTION, columns, where="data.jsonl line 7")
    with pytest.raises(UserError, match=f"^data.jsonl line 7: .*{message}"):  # also before anything is answered
        check_rows(VERIFIERS[rule], [Prompt(QUESTION, {}), fault])


def test_rows_without_a_fault_pass_and_other_functions_read_no_rows():
    rows = [Prompt(QUESTION, {"pattern": "a.c", "ground_truth": "7"}), Prompt(QUESTION)]
    for rule in (*VERIFIERS.values(), len):
        check_rows(rule, rows)


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "import time; time.sleep(99)",
        "x = bytearray(2**40)",
        "open('big', 'wb').write(bytes(2**24))",
        "import sys; sys.exit(0)",
        "def (",
    ],
)
def test_code_that_fails_or_hangs_does_not_pass(code, monkeypatch):
    monkeypatch.setattr(run_code, "SECONDS", 1)
    assert not run_code.passes(code, "")


@pytest.mark.parametrize(
    "code",
    [
        "import os\nfor _ in range(5):\n  if not os.fork(): break\nimport time; time.sleep(60)",
        "for i in range(64): open(f'{i}', 'wb').write(bytes(2**19))",
        "import os\nfor i in range(1100): os.mkdir(f'{i}')\nimport time; time.sleep(60)",
    ],
)
def test_code_that_forks_or_fills_the_disk_is_stopped_at_once(code, monkeypatch):
    """For root too, whose processes the system does not limit, and by no file that is too large alone."""
    monkeypatch.setattr(run_code, "SECONDS", 30)
    monkeypatch.setattr(run_code, "PROCESSES", 3)
    start = time.monotonic()
    assert not run_code.passes(code, "")
    assert time.monotonic() - start < 25


def test_folders_in_folders_without_end_neither_pass_nor_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert not run_code.passes("import os\nfor _ in range(3000): os.mkdir('a'); os.chdir('a')", "")
    assert not list(tmp_path.iterdir())


def test_code_that_keeps_within_the_limits_of_its_folder_passes():
    assert run_code.passes("for i in range(9): open(f'{i}', 'wb').write(bytes(2**19))", "")


def test_a_forked_process_ends_with_the_call(tmp_path, monkeypatch):
    monkeypatch.setattr(run_code, "PROCESSES", 4096)  # the fork itself is allowed
    mark = tmp_path / "pid"
    fork = f"import os, time\npid = os.fork()\nif not pid: time.sleep(60)\nopen({str(mark)!r}, 'w').write(str(pid))"
    assert run_code.passes(fork, "")
    time.sleep(0.2)
    stat = Path(f"/proc/{mark.read_text()}/stat")
    assert not stat.exists() or stat.read_text().split()[2] == "Z"
