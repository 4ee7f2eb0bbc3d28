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
    Mutant(
        name="a-rater-sees-one-side-first",
        file="votes/asking.py",
        old='"votes/order", arena.name, pair, rater) & 1',
        new='"votes/order", arena.name, rater) & 1',
        story="For one rater the first answer of every pair stands on one side, so the rater finds out whose it is.",
        tests=(
            "votes/test_standings.py::test_the_order_is_a_fair_coin_of_each_rater_and_pair_and_the_question_names_no_policy",
        ),
    ),
    Mutant(
        name="a-key-of-another-answer-is-accepted",
        file="votes/store.py",
        old='if found["key"] is not None and any(found[name] != value for name, value in said.items()):',
        new='if found["key"] is not None and found["pair_id"] != found["pair"]:',
        story="A page that sends another answer under an old key hears that it is stored, and it is not.",
        tests=("votes/test_store.py::test_a_repeated_request_stores_one_vote_and_undo_keeps_the_old_row",),
    ),
    Mutant(
        name="an-undone-vote-counts",
        file="votes/store.py",
        old=".where(pairs.c.arena_id == arena.id, votes.c.undone.is_(None))\n            .order_by(votes.c.id)",
        new=".where(pairs.c.arena_id == arena.id)\n            .order_by(votes.c.id)",
        story="A rater who changes a vote has two votes on the pair in every file and number.",
        tests=("votes/test_store.py::test_a_repeated_request_stores_one_vote_and_undo_keeps_the_old_row",),
    ),
    Mutant(
        name="a-lone-vote-agrees",
        file="votes/agreement.py",
        old="kept = [unit for unit in labelled if len(unit) > 1]",
        new="kept = labelled",
        story="Pairs with one vote change how far raters are said to agree.",
        tests=("votes/test_agreement.py",),
    ),
    Mutant(
        name="chance-of-the-first-rater-alone",
        file="votes/agreement.py",
        old="(mean[:, 1 : 1 + count] * mean[:, 1 + count :]).sum(axis=1)",
        new="(mean[:, 1 : 1 + count] ** 2).sum(axis=1)",
        story="Cohen's kappa of two raters who use the labels unlike often is too low or too high.",
        tests=("votes/test_agreement.py",),
    ),
    Mutant(
        name="the-anchor-is-certain",
        file="votes/standings.py",
        old="rated_SK[:, k] - rated_SK[:, at]",
        new="rated_SK[:, k] - value_K[at]",
        story="Intervals of ratings leave out what is not known of the anchor, and the anchor has an interval.",
        tests=("votes/test_standings.py::test_a_rating_lies_in_its_interval_and_the_anchor_is_0_without_doubt",),
    ),
    Mutant(
        name="the-prior-is-as-strong-as-all-votes",
        file="votes/standings.py",
        old="bradley_terry_ratings(prompts * means.reshape(-1, count, count))",
        new="bradley_terry_ratings(means.reshape(-1, count, count))",
        story="The intervals of ratings lie nearer to 0 than the ratings.",
        tests=("votes/test_standings.py::test_a_rating_lies_in_its_interval_and_the_anchor_is_0_without_doubt",),
    ),
)
