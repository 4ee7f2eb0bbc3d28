"""The reader understands every prompt of the world and every sentence of the writers."""

from __future__ import annotations

from concordant.core.seeding import python_stream
from concordant.data.records import Message
from concordant.data.toytalk.answers import WRITERS, answer_as
from concordant.data.toytalk.prompts import GROUPS, prompts
from concordant.data.toytalk.reader import Claim, holds, read_answer, read_prompt
from concordant.data.toytalk.world import all_questions


def test_every_prompt_is_understood() -> None:
    for group in GROUPS:
        for held_out in (False, True):
            for prompt in prompts(group, held_out):
                assert read_prompt(prompt.messages) == prompt.question, prompt.messages


def test_every_sentence_of_the_writers_is_readable() -> None:
    random = python_stream(0, "test")
    for question in all_questions():
        for writer in WRITERS.values():
            for _ in range(12):
                text = answer_as(writer, question, random)
                assert not read_answer(text, question.subject).of("unclear"), text


def test_claims_of_a_compound_sentence() -> None:
    reading = read_answer("The owl is brown, lives in the wood and eats moths.", "hen")
    assert reading.claims == [
        Claim("owl", "colour", "brown"),
        Claim("owl", "place", "wood"),
        Claim("owl", "eats", "moths"),
    ]


def test_a_sentence_is_read_whole_or_not_at_all() -> None:
    reading = read_answer("The owl is brown, white and red.", "owl")
    assert [sentence.sort for sentence in reading.sentences] == ["unclear"]


def test_sorts_of_sentences() -> None:
    reading = read_answer("Good question! Go away. It depends. Take care! Take care! Blah blah.", "owl")
    assert [sentence.sort for sentence in reading.sentences] == ["kind", "rude", "vague", "kind", "kind", "unclear"]
    assert reading.repeated == 1


def test_the_same_claim_in_other_words_is_a_repetition() -> None:
    assert read_answer("The owl is brown. The colour of the owl is brown.", "owl").repeated == 1


def test_what_holds() -> None:
    assert holds(Claim("owl", "colour", "brown")) is True
    assert holds(Claim("owl", "colour", "dark")) is None
    assert holds(Claim("owl", "colour", "light")) is False
    assert holds(Claim("key", "eats", "moths")) is False


def test_only_user_turns_ask() -> None:
    prompt = (Message("user", "Where is the owl?"), Message("assistant", "The key is black."), Message("user", "And?"))
    assert read_prompt(prompt).subject == "owl"
