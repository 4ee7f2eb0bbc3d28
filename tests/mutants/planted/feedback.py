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
    Mutant(
        name="a-judge-without-flips",
        file="feedback/labels.py",
        old="return self.decided_twice and self.orders[0] != self.orders[1]",
        new="return self.decided_twice and self.orders[0] == self.orders[1]",
        story="The share of flips is that of the steady verdicts, so that a prejudiced judge looks steady.",
        tests=("stages/test_judge_verb.py",),
    ),
    Mutant(
        name="the-worse-answer-is-labelled-as-chosen",
        file="feedback/labels.py",
        old="(pair.chosen, pair.rejected) if strength > 0 else (pair.rejected, pair.chosen)",
        new="(pair.chosen, pair.rejected) if strength < 0 else (pair.rejected, pair.chosen)",
        story="Every label of the judge is written the wrong way round.",
        tests=("stages/test_judge_verb.py",),
    ),
    Mutant(
        name="labels-of-the-data-outlive-the-judge",
        file="feedback/labels.py",
        old="margin=lead, probability=None)",
        new="margin=lead)",
        story="A soft label of the data stands beside the judge's choice, and the trainer believes the soft label.",
        tests=("feedback/test_labels.py",),
    ),
)
