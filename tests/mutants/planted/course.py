"""Planted bugs of course/: a wrong file passes, or its mistake has another's name."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

MUTANTS = (
    Mutant(
        name="half-of-a-list-is-compared",
        file="course/check.py",
        old="return len(a) == len(b) and all(map(same, a, b))",
        new="return len(a) == len(b) and same(a[0], b[0]) if a and b else a == b",
        story="A learner's file whose first number is right passes.",
        tests=("course/test_course.py",),
    ),
    Mutant(
        name="the-doctors-answer-is-in-the-folder",
        file="course/breaks.py",
        old="    _hide(output / EVENTS)\n",
        new="",
        story="Who opens events.jsonl of a broken run reads what is wrong with it.",
        tests=("course/test_course.py::test_a_broken_run_hides_the_doctors_answer_until_somebody_asks",),
    ),
    Mutant(
        name="a-skeleton-replaces-the-learners-file",
        file="course/command.py",
        old="        if file.exists():\n",
        new="        if False:\n",
        story="A second start throws the learner's work away.",
        tests=("course/test_course.py::test_the_verb_writes_checks_and_shows",),
    ),
    Mutant(
        name="a-head-that-is-never-padded-on-the-left",
        file="course/rewards.py",
        old="head(hidden, right.flip(1)).tolist()",
        new="head(hidden, right).tolist()",
        story="A reward head that reads padding passes the exercise.",
        tests=("course/test_course.py",),
    ),
)
