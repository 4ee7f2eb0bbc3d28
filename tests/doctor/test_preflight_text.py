"""Text in the wrong place: each kind is found from its share on, and its healthy neighbour is left in peace."""

import pytest

from concordant.data.records import Demonstration, Message, Pair
from concordant.doctor.preflight_answers import check_answers
from concordant.doctor.preflight_text import MISPLACED, check_text

ROWS = 100


def named(findings):
    return [finding.rule for finding in findings]


def demonstrations(write, prompt=lambda i: f"What is the number after {i}?"):
    return [
        Demonstration((Message("user", prompt(i)), Message("assistant", write(i, prompt(i)))), 1) for i in range(ROWS)
    ]


SICK = {
    "markup_in_answers": lambda i, p: f"<p>It is <b>{i + 1}</b>.</p>",
    "end_mark_as_text": lambda i, p: f"It is {i + 1}.</s>",
    "turns_in_answers": lambda i, p: f"It is {i + 1}.\nHuman: And then?\nAssistant: {i + 2}.",
    "template_in_text": lambda i, p: f"[INST] {i} [/INST] It is {i + 1}.",
    "prompt_in_answers": lambda i, p: f"{p} It is {i + 1}.",
    "answer_in_prompts": lambda i, p: p.partition("Tell: ")[2],
    "answers_placeholder": lambda i, p: "nan" if i % 4 == 0 else f"It is {i + 1}.",
}


@pytest.mark.parametrize("name", SICK)
def test_each_kind_is_found(name):
    if name == "answer_in_prompts":
        rows = demonstrations(SICK[name], prompt=lambda i: f"Where is it? Tell: it is in house number {i}.")
    else:
        rows = demonstrations(SICK[name])
    assert named(check_text(rows))[:1] == [name]


def test_one_prompt_for_all_rows():
    rows = demonstrations(lambda i, p: f"It is {i + 1}.", prompt=lambda i: "Answer the question.")
    assert named(check_text(rows)) == ["prompts_alike"]
    assert set(SICK) | {"prompts_alike"} == set(MISPLACED)


@pytest.mark.parametrize(
    "write",
    [
        lambda i, p: f"It is {i + 1}.",
        lambda i, p: f"if x < {i}:\n    return a > b  # <p> is a name",
        lambda i, p: f"Note: it is {i + 1}. Answer: yes, {i}.",
        lambda i, p: "yes" if i % 20 == 0 else f"It is {i + 1}, as {p}",
        lambda i, p: f"答えは{i + 1}です。",
        lambda i, p: ("positive", "negative")[i % 2],
        lambda i, p: f"- one\n- {i}\n- three",
    ],
)
def test_ordinary_answers_are_left_in_peace(write):
    assert check_text(demonstrations(write)) == []


def test_plain_text_has_no_prompts_that_could_be_alike():
    texts = [Demonstration((Message("assistant", f"Owls hunt at night, said owl {i}."),), 0) for i in range(ROWS)]
    assert check_text(texts) == []


def test_few_rows_say_little():
    assert check_text(demonstrations(SICK["end_mark_as_text"])[:20]) == []


# -- marks, mirrors and halves --------------------------------------------------------------------


def pairs(chosen, rejected, prompt=lambda i: f"Where is house {i}?"):
    return [Pair((Message("user", prompt(i)),), chosen(i), rejected(i)) for i in range(ROWS)]


def test_a_mark_on_one_side():
    first = pairs(lambda i: f"Sure, go {i} steps.", lambda i: f"Go {i} steps back.")
    assert named(check_answers(first))[0] == "one_sided" and "chosen" in check_answers(first)[0].seen
    second = pairs(lambda i: f"Go {i} steps.", lambda i: f"Go {i} steps .. well")
    assert "one_sided" in named(check_answers(second))
    sides = [("Sure, go there.", "Go there."), ("Go there.", "Sure, go there.")]
    mixed = pairs(lambda i: sides[i % 2][0], lambda i: sides[i % 2][1])
    assert "one_sided" not in named(check_answers(mixed))


def test_pairs_that_stand_both_ways():
    once = pairs(lambda i: f"a {i}.", lambda i: f"{i} b.")
    assert "mirrored_pairs" in named(check_answers([*once, *(Pair(p.prompt, p.rejected, p.chosen) for p in once)]))
    assert "mirrored_pairs" not in named(check_answers([*once, *once]))  # repeated, and of one opinion


def test_exchanged_columns():
    rows = pairs(lambda i: f"Where is {i}?", lambda i: f"Who is {i}?", prompt=lambda i: f"It is at {i}.")
    assert "columns_exchanged" in named(check_answers(rows))
    assert "columns_exchanged" not in named(check_answers(pairs(lambda i: f"{i}?", lambda i: f"{i}.")))


def test_two_halves_of_opposite_labels():
    rows = [(f"go on and on to {i}.", f"go {i}.") for i in range(60)]
    opposite = [*rows, *((rejected, chosen) for chosen, rejected in rows)]
    made = [Pair((Message("user", f"where {i}?"),), *sides) for i, sides in enumerate(opposite)]
    assert "labels_change" in named(check_answers(made))
    assert "labels_change" not in named(check_answers(made[:60]))


def test_answers_that_end_inside_a_sentence():
    cut = demonstrations(lambda i, p: f"The number after {i} is the one that comes next to")
    assert "answers_cut" in named(check_answers(cut))
    whole = demonstrations(lambda i, p: f"The number after {i} is the one that comes next to it.")
    assert "answers_cut" not in named(check_answers(whole))
    assert "answers_cut" not in named(check_answers(demonstrations(lambda i, p: "six")))
