"""Planted bugs of votes/: votes that are lost or count twice, and numbers that say something else."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

MUTANTS = (
    Mutant(
        name="a-second-tab-votes-again",
        file="votes/store.py",
        old='if found["key"] is None and not counting:',
        new='if found["key"] is None:',
        story="A rater with two open pages gets an error instead of the vote that stands.",
        tests=("votes/test_store.py",),
    ),
    Mutant(
        name="two-votes-of-one-rater",
        file="votes/schema.py",
        old="        unique=True,\n        sqlite_where",
        new="        unique=False,\n        sqlite_where",
        story="Requests that come at once store several votes of one rater on one pair.",
        tests=("votes/test_at_once.py",),
    ),
    Mutant(
        name="everybody-sees-one-order",
        file="votes/asking.py",
        old='"votes/order", arena.name, pair, rater) & 1',
        new='"votes/order", arena.name, pair) & 1',
        story="A pair's first answer stands on the same side for all raters, so their position bias becomes a label.",
        tests=("votes/test_standings.py",),
    ),
    Mutant(
        name="a-swapped-vote-is-for-the-other-answer",
        file="votes/rows.py",
        old='return "first" if (side == "left") != swapped else "second"',
        new='return "first" if side == "left" else "second"',
        story="A vote counts for the wrong answer where the answers were turned round.",
        tests=("votes/test_store.py",),
    ),
    Mutant(
        name="a-weak-vote-is-a-strong-margin",
        file="votes/export.py",
        old="(vote.strength or _UNSAID) / max(STRENGTHS)",
        new="1.0",
        story="A slightly better answer gets the margin of a much better one.",
        tests=("votes/test_export.py::test_counts_margins_and_reasons_by_hand",),
    ),
)
