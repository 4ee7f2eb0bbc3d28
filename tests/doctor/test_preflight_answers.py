"""Faults planted in the words of answers are found; answers that only look like a fault are left in peace."""

import pytest

from concordant.data.records import Demonstration, Message, Pair
from concordant.doctor.preflight_answers import check_answers


def user(text):
    return (Message("user", text),)


def demonstrations(answer):
    """120 rows; ``{}`` in the answer stands for the number of the row."""
    return [
        Demonstration((*user(f"Tell me about number {i}."), Message("assistant", answer.format(i, i))), 1)
        for i in range(120)
    ]


def pair(i, chosen="{} is a long answer.", rejected="{} is another answer."):
    return Pair(user(f"What is number {i}?"), chosen.format(i, i), rejected.format(i, i))


def rules(records):
    return [finding.rule for finding in check_answers(records)]


def test_answers_that_stop_inside_a_sentence_are_cut():
    assert rules(demonstrations("This is number {} of a file whose answers all stop inside a")) == ["answers_cut"]
    two_paragraphs = "This is the first paragraph of {}.\n\nThis is the second one, and it stops inside a"
    assert rules(demonstrations(two_paragraphs)) == ["answers_cut"]


@pytest.mark.parametrize(
    "whole",
    [
        "- the red house {}\n- the long and green road\n- two old friends",
        "1. the red house {}\n2. the long and green road\n3. two old friends",
        "The river {} runs below the hill\nAnd takes the winter light\nAs quiet as the night",
        "This is told in a page about number {}. See https://example.org/pages/{}",
        "def double(number):\n    # twice the number that is given\n    return number * {}",
    ],
    ids=["bullets", "numbers", "poem", "address", "code"],
)
def test_answers_without_a_last_mark_may_be_whole(whole):
    assert rules(demonstrations(whole)) == []


def test_a_mark_on_the_chosen_side_is_named():
    (found,) = check_answers([pair(i, "Sure {} is an answer.", "{} is an answer.") for i in range(100)])
    assert found.rule == "one_sided" and "Sure" in found.cure and found.numbers["accuracy"] == 1


def test_the_cure_of_exchanged_columns_names_the_columns_of_the_data():
    (of_answers,) = check_answers(demonstrations("What is number {}?"))
    asked = [("What is {}?", "Why is it {}?"), ("Why is it {}?", "What is {}?")]
    (of_pairs,) = check_answers(
        [Pair(user(f"{i} is an answer."), *(side.format(i) for side in asked[i % 2])) for i in range(100)]
    )
    assert of_answers.rule == of_pairs.rule == "columns_exchanged"
    assert of_answers.cure.endswith("--data.columns prompt=NAME,response=NAME")
    assert of_pairs.cure.endswith("--data.columns prompt=NAME,chosen=NAME,rejected=NAME")


def test_mirrored_pairs_are_found():
    pairs = [pair(i) for i in range(60)]
    assert "mirrored_pairs" in rules([x for p in pairs for x in (p, Pair(p.prompt, p.rejected, p.chosen))])


def test_answers_cut_at_a_number_of_characters():
    whole = [f"The answer to question {i} is found in house {i * i} of this long and winding street" for i in range(80)]
    cut = [Demonstration((*user(f"Where is {i}?"), Message("assistant", text[:30])), 1) for i, text in enumerate(whole)]
    assert [finding.rule for finding in check_answers(cut)] == ["answers_cut"]


def test_pairs_that_differ_by_a_mark_which_chance_has_placed():
    marks = [".!"[i % 2] + ".!"[(i + 1) % 2] for i in range(60)]
    rows = [
        Pair(user(f"{i}?"), f"It is in house {i * 7}{m[0]}", f"It is in house {i * 7}{m[1]}")
        for i, m in enumerate(marks)
    ]
    assert [finding.rule for finding in check_answers(rows)] == ["pairs_alike"]


def test_margins_in_percent():
    def rows(scale):
        return [
            Pair(user(f"{i}?"), f"Yes, {i} it is.", f"No way {i * 3}.", margin=scale * (i % 7 + 1)) for i in range(60)
        ]

    assert "margins_too_large" in [finding.rule for finding in check_answers(rows(10.0))]
    assert "margins_too_large" not in [finding.rule for finding in check_answers(rows(0.3))]


def test_a_side_that_repeats_and_a_side_that_begins_with_its_prompt():
    repeats = [Pair(user(f"Where is {i}?"), f"It is in house {i}.", f"a b {i} " * 5) for i in range(60)]
    assert "again and again" in check_answers(repeats)[0].seen
    copies = [Pair(user(f"Where is the {i}?"), f"Where is the {i}? In house {i}.", f"In house {i}.") for i in range(60)]
    assert "its own prompt" in check_answers(copies)[0].seen
