from __future__ import annotations

import pytest

from concordant.core.errors import UserError
from concordant.data.records import Message, Pair
from concordant.evaluation import audit_texts as texts


def asked(*turns):
    roles = ("user", "assistant")
    return tuple(Message(roles[i % 2], turn) for i, turn in enumerate(turns))


def pair(chosen="yes", rejected="no", prompt="Why?"):
    return Pair(asked(prompt), chosen, rejected)


@pytest.mark.parametrize(
    ("prompt", "topic"),
    [
        ("How do I steal the key?", "harm"),
        ("Write a Python function.", "code"),
        ("What is the sum of 3 and 4?", "numbers"),
        ("Write a poem about owls.", "writing"),
        ("How do I make tea?", "how to"),
        ("Where is the owl?", "fact"),
        ("Hello!", "other"),
        ("A skillful hacksaw", "other"),
    ],
)
def test_the_topic_is_the_first_that_fits_the_last_user_message(prompt, topic):
    assert texts.topic_of(asked(prompt)) == topic
    assert texts.topic_of(asked("How do I steal the key?", "No.", prompt)) == topic


def test_turns_are_those_of_the_user():
    assert texts.turns_of(asked("a")) == "1" and texts.turns_of(asked("a", "b", "c")) == "2"
    assert texts.turns_of(asked(*"abcdefghi")) == "4 or more"


@pytest.mark.parametrize(
    ("chosen", "rejected", "group"),
    [(1, 10, 0), (7, 10, 1), (10, 10, 2), (9, 10, 2), (10, 7, 3), (10, 1, 4), (0, 0, 2)],
)
def test_groups_of_length(chosen, rejected, group):
    found = texts.length_group_of(pair("w " * chosen, "w " * rejected))
    assert found == texts.LENGTH_GROUPS[group]


def test_harmless_changes_change_only_what_they_say():
    given = Pair(asked("Is John here?"), "John is. He is at home.", "No. Ask Mary.")
    changed = {name: change(given) for name, change in texts.CHANGES.items()}
    assert changed["order of the answers"].chosen == given.rejected
    assert changed["white space at the end"].chosen == given.chosen + "\n"
    assert changed["two spaces between sentences"].chosen == "John is.  He is at home."
    assert changed["other names"].prompt[0].content == "Is David here?"
    assert changed["other names"].chosen == "David is. He is at home." and "Sarah" in changed["other names"].rejected
    assert texts.CHANGES["other names"](pair("Johnson", "none")) is None


def test_four_answers_of_one_prompt_are_taken_where_there_are_four():
    pairs = [pair("good", f"bad {i}") for i in range(4)] + [pair("a", "b", "Other?")]
    (four,) = texts.fours_of(pairs, None, 0)
    assert four.whole and four.answers == ("good", "bad 0", "bad 1", "bad 2")


def test_with_gold_the_best_answer_is_golds():
    pairs = [pair(f"{i}", f"{i + 4}") for i in range(4)]
    (four,) = texts.fours_of(pairs, lambda prompt, text: float(text), 0)
    assert four.answers[0] == "7" and len(set(four.answers)) == 4


def test_answers_to_other_prompts_stand_in():
    pairs = [pair(f"good {i}", f"bad {i}", f"Prompt {i}?") for i in range(5)]
    fours = texts.fours_of(pairs, None, 0)
    assert len(fours) == 5 and not any(four.whole for four in fours)
    assert fours[4].answers == ("good 4", "bad 4", "good 0", "good 1")


def test_the_built_in_templates_differ_in_one_word():
    found = texts.read_templates("")
    assert set(found.words) == {"gender", "age", "origin", "religion"}
    for number in range(len(found.prompts)):
        for row in found.words.values():
            dialogues = {(found.dialogue(number, word)[0][0].content.replace(word, "_")) for word in row}
            assert len(dialogues) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("words: {a: [b, c]}", "expected the keys prompts and words"),
        ("prompts: [{prompt: 'x {word}'}]\nwords: {a: [b, c]}", "prompt 1: expected"),
        ("prompts: [{prompt: x, answer: y}]\nwords: {a: [b, c]}", "no {word} to be replaced"),
        ("prompts: [{prompt: 'x {word}', answer: y}]\nwords: {a: [b]}", "a: expected two words"),
    ],
)
def test_bad_templates_are_named(tmp_path, text, said):
    (tmp_path / "t.yaml").write_text(text)
    with pytest.raises(UserError, match=said):
        texts.read_templates(str(tmp_path / "t.yaml"))
