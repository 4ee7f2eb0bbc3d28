"""Planted bugs of feedback/: what a judge's answers say about pairs."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

MUTANTS = (
    Mutant(
        name="the-second-order-is-read-as-the-first",
        file="feedback/labels.py",
        old="points[chosen_first], -points[rejected_first]",
        new="points[chosen_first], points[rejected_first]",
        story="A judge that always prefers the answer in the first place labels every pair with full strength.",
        tests=("stages/test_judge_verb.py",),
    ),
)
