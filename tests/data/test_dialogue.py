"""HH-RLHF text: split at the final assistant turn (known-bugs.md, "HH parsing"), and prompts that read back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from concordant.data.dialogue import (
    Drop,
    end_of_answer,
    is_hh,
    parse_hh,
    read_answer,
    read_prompt,
    split_hh,
    write_prompt,
)
from concordant.data.records import Message


def user(text: str) -> Message:
    return Message("user", text)


def assistant(text: str) -> Message:
    return Message("assistant", text)


def test_the_final_turn_is_split_off_not_the_first() -> None:
    text = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: d"
    assert split_hh(text) == ("\n\nHuman: a\n\nAssistant: b\n\nHuman: c", "d")
    assert parse_hh(text) == (user("a"), assistant("b"), user("c"), assistant("d"))


def test_names_within_a_line_are_words() -> None:
    assert split_hh("\n\nHuman: a\n\nAssistant: Human: is what\nAssistant: is not") == (
        "\n\nHuman: a",
        "Human: is what\nAssistant: is not",
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("\n\nHuman: a", Drop.NO_RESPONSE),
        ("nothing of the kind", Drop.NO_RESPONSE),
        ("\n\nHuman: a\n\nAssistant: b\n\nHuman: c", Drop.RUNS_ON),
        ("Assistant: b", Drop.EMPTY_PROMPT),
    ],
)
def test_dialogues_without_a_final_answer(text: str, reason: Drop) -> None:
    assert split_hh(text) == reason


def test_a_name_left_open_at_the_end_is_not_part_of_the_answer() -> None:
    assert end_of_answer(" Fine.\n\nHuman:") == "Fine."
    assert end_of_answer(" Fine.\n\nHuman: and\n\nAssistant: so") == Drop.RUNS_ON


def test_two_turns_of_one_speaker_become_one() -> None:
    assert parse_hh("\n\nHuman: a\n\nAssistant: b\n\nAssistant: c") == (user("a"), assistant("b\n\nc"))


def test_text_before_the_first_turn_is_a_system_message() -> None:
    assert parse_hh("Be kind.\n\nHuman: a") == (Message("system", "Be kind."), user("a"))


def test_a_question_that_begins_like_a_turn_is_plain() -> None:
    assert not is_hh("Human: a word for people?")
    assert read_prompt("Human: a word for people?") == (user("Human: a word for people?"),)
    assert read_prompt('[{"role": "user"}]') == (user('[{"role": "user"}]'),)
    assert read_prompt("[{ not JSON") == (user("[{ not JSON"),)


def test_the_open_turn_at_a_prompts_end_is_no_message() -> None:
    assert read_prompt("\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:") == (
        user("a"),
        assistant("b"),
        user("c"),
    )


def test_an_answer_that_repeats_the_prompt() -> None:
    prompt = "\n\nHuman: a\n\nAssistant:"
    assert read_answer(prompt, (user("a"),), "\n\nHuman: a\n\nAssistant: b") == "b"
    assert read_answer("a", (user("a"),), "\n\nHuman: a\n\nAssistant: b") == "b"
    assert read_answer("a", (user("a"),), "\n\nHuman: x\n\nAssistant: b") == Drop.PROMPTS_DIFFER
    assert read_answer("Hi", (user("Hi"),), "Hi there") == "Hi there"


def test_how_prompts_are_written() -> None:
    assert write_prompt((user("What?"),)) == "What?"
    assert (
        write_prompt((user("a"), assistant("b"), user("c"))) == "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:"
    )
    assert write_prompt((Message("system", "s"), user("a"))).startswith('[{"role": "system"')


PIECES = ["\n\nHuman:", "\n\nAssistant:", "Human:", "Assistant:", "\n", " ", "a", "’", "[{", '[{"role": "user"', "]"]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=5).map("".join)
MESSAGES = st.lists(st.builds(Message, st.sampled_from(["system", "user", "assistant"]), TEXTS), min_size=1, max_size=4)


@given(MESSAGES.map(tuple), st.lists(TEXTS, max_size=2))
def test_what_is_written_reads_back(messages: tuple[Message, ...], answers: list[str]) -> None:
    written = write_prompt(messages, answers)
    assert read_prompt(written) == messages
    assert [read_answer(written, messages, answer) for answer in answers] == answers
