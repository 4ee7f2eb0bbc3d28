"""Every exercise: the solution and other right files pass, and each planted mistake is called by its name."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

import concordant
from concordant.cli import main
from concordant.config.serving import CourseConfig
from concordant.core.errors import RunFailed, UserError
from concordant.course import breaks
from concordant.course.catalogue import EXERCISES
from concordant.course.check import check, differences, expected_of, judged, known
from concordant.course.runner import seen
from tests.course.planted import RIGHT, WRONG


def take(action, exercise=0, file=""):
    return concordant.take_course(CourseConfig(action=action, exercise=exercise, file=str(file)))


@pytest.mark.parametrize("number", EXERCISES)
def test_a_solution_passes_and_each_planted_mistake_is_named(number, tmp_path):
    """Files in other words than the course's own, so that behaviour is compared and not text."""
    exercise = EXERCISES[number]
    file = tmp_path / "learner.py"

    def verdict(text):
        file.write_text(text, encoding="utf-8")
        return judged(exercise, json.loads(json.dumps(seen(exercise, file))))

    assert verdict(exercise.solution).passed and verdict(RIGHT[number]).passed
    assert len(WRONG[number]) >= 3
    for name, text in WRONG[number].items():
        found = verdict(text)
        assert not found.passed and found.mistake == name, (name, found)
    unwritten = verdict(exercise.skeleton)
    assert not unwritten.passed and "not written yet" in unwritten.says and "line" in unwritten.says


@pytest.mark.parametrize("number", EXERCISES)
def test_no_two_mistakes_look_alike_and_none_looks_right(number):
    exercise = EXERCISES[number]
    behaviours = [known(exercise, m) for m in exercise.mistakes]
    for i, one in enumerate(behaviours):
        assert differences(one, expected_of(exercise)), exercise.mistakes[i].name
        for k, other in enumerate(behaviours[:i]):
            assert differences(one, other), (exercise.mistakes[i].name, exercise.mistakes[k].name)


def test_an_unknown_mistake_is_shown_by_what_was_expected_and_given(tmp_path):
    file = tmp_path / "learner.py"
    file.write_text(RIGHT[3].replace("F.softplus(-d).mean()", "F.softplus(-d).mean() * 3"))
    found = judged(EXERCISES[3], seen(EXERCISES[3], file))
    assert "The loss of four pairs" in found.says and "No known mistake" in found.says and not found.mistake


def test_two_mistakes_at_once_name_the_one_that_is_seen(tmp_path):
    text = RIGHT[3].replace("F.softplus(-d).mean()", "F.softplus(-d).mean() * 3")
    file = tmp_path / "learner.py"
    file.write_text(text.replace("((d > 0).double() + (d == 0).double() / 2).mean()", "(d > 0).float().mean()"))
    found = judged(EXERCISES[3], seen(EXERCISES[3], file))
    assert found.mistake == "an equal pair counts as wrong" and "Something else" in found.says


def test_a_file_runs_in_a_process_of_its_own_that_may_raise_hang_or_die(tmp_path):
    file = tmp_path / "learner.py"
    file.write_text("def compute_preference_loss(:\n")
    assert "SyntaxError" in check(EXERCISES[3], file).says
    file.write_text("import os\nos._exit(3)\n")
    assert "ended the process" in check(EXERCISES[3], file).says
    file.write_text("import time\nwhile True: time.sleep(1)\n")
    assert "endless loop" in check(EXERCISES[3], file, seconds=6).says
    file.write_text(RIGHT[3])
    assert check(EXERCISES[3], file).passed


def test_the_verb_writes_checks_and_shows(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    take("list")
    shown = capsys.readouterr().out
    assert shown.index("Phase 1: LoRA") < shown.index("Phase 3") < shown.index("Phase 4") < shown.index("Phase 5")
    assert str(take("start", 3)) == "exercise_3.py"
    with pytest.raises(UserError, match="is there already"):
        take("start", 3)
    with pytest.raises(RunFailed, match="not written yet"):
        take("check", 3)
    (tmp_path / "mine.py").write_text(RIGHT[3])
    take("check", 3, "mine.py")
    take("hint", 3)
    take("solution", 3)
    shown = capsys.readouterr().out
    assert "All tests pass" in shown and "logsigmoid" in shown and "def compute_preference_loss" in shown
    with pytest.raises(UserError, match="exercises are 1 to 11"):
        take("hint", 99)
    with pytest.raises(UserError, match="exercise_4.py is not there"):
        take("check", 4)


def test_a_broken_run_hides_the_doctors_answer_until_somebody_asks(tmp_path, monkeypatch, capsys, small_toytalk):
    """The run itself is short here, and runs in this process; the planted bug is the same."""

    def here(command, **settings):
        assert command[1:3] == ["-m", "concordant"]
        assert main(command[3:]) == 0
        capsys.readouterr()

    monkeypatch.setattr(breaks.subprocess, "run", here)
    monkeypatch.chdir(tmp_path)
    task = breaks.BREAKS[8]
    small = task.options | {"train.max_steps": "12"}
    monkeypatch.setitem(breaks.BREAKS, 8, replace(task, options=small))
    assert str(take("start", 8)) == "exercise_8"
    events = [json.loads(line) for line in (tmp_path / "exercise_8" / "events.jsonl").read_text().splitlines()]
    assert events and not [e for e in events if e["kind"] == "finding"]
    assert "learning_rate" not in capsys.readouterr().out
    with pytest.raises(RunFailed, match="is not what is wrong"):
        take("check", 8, "data_repeated")
    with pytest.raises(UserError, match="Did you mean"):
        take("check", 8, "learning_rate_to_high")
    take("check", 8, "learning_rate_too_high")
    take("answer", 8)
    shown = capsys.readouterr().out
    assert "Right. Train again" in shown and "error learning_rate_too_high" in shown


@pytest.mark.parametrize(("number", "steps"), [(10, "120"), (11, "3")])
def test_the_doctor_names_the_bug_of_a_broken_run(number, steps, tmp_path, monkeypatch, request):
    if number == 11:  # in the small world nobody can learn by heart
        request.getfixturevalue("small_toytalk")
    monkeypatch.setattr(breaks.subprocess, "run", lambda command, **settings: main(command[3:]))
    task = breaks.BREAKS[number]
    task = replace(task, options=task.options | {"train.max_steps": steps})
    breaks.train(task, tmp_path / "run")
    assert {finding.rule for finding in breaks.diagnose(tmp_path / "run")} & set(task.rules)
