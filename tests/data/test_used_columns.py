"""Columns that change what is learnt, a verdict on two answers among them: each is used, or refused by its name."""

from __future__ import annotations

from typing import Any

import pytest

from concordant.core.errors import UserError
from concordant.data.columns import column_names
from concordant.data.dialogue import Drop
from concordant.data.recognise import Reading, read_records
from concordant.data.records import Demonstration, Message, Prompt
from concordant.data.rows import BadRows
from tests.data.reading import bot, read, rows, said, user


@pytest.mark.parametrize(
    ("values", "column"),
    [
        ({"prompt": "q", "response": "good", "weight": 0}, "weight"),
        ({"text": "words", "label": False}, "label"),
        ({"messages": [user("q"), bot("a")], "rating": 1}, "rating"),
        ({"text": "words", "rank": 1}, "rank"),
        ({"question": "q", "context": "c", "answers": ["a"]}, "context"),
        ({"messages": [user("q"), bot("a")], "images": ["x.png"]}, "images"),
        ({"prompt": "q", "response": "good", "context": "c"}, "context"),
        ({"prompt": "q", "response": "good", "reward": 0.1}, "reward"),
        ({"prompt": "q", "response": "good", "thinking": "hm"}, "thinking"),
        ({"messages": [user("q"), bot("a")], "functions": [{"name": "f"}]}, "functions"),
        ({"messages": [user("q"), bot("a")], "System-Prompt": "s"}, "System-Prompt"),
        ({"messages": [user("q"), bot("a")], "sytem": "s"}, "sytem"),
    ],
)
def test_a_column_that_matters_and_is_not_used_is_refused_by_name(values: dict[str, Any], column: str) -> None:
    message = said(values)
    assert f'"{column}" can change what is learnt' in message and f"ignore={column}" in message
    assert len(read(values, columns=column_names([f"ignore={column}"]))) == 1


def test_the_cure_for_a_column_that_matters_is_the_whole_option() -> None:
    """A repeated option would be joined with the first, but a key of a file would be replaced by it."""
    values = {"ask": "q", "response": "a", "Weight": 1, "train": 0, "System": "s"}
    message = said(values, columns=column_names(["prompt=ask"]))
    assert 'the columns "Weight" and "train" and "System" can change what is learnt' in message
    assert "--data.columns prompt=ask,ignore=Weight,ignore=train,ignore=System; " in message
    assert "--data.columns prompt=ask,system=System; " in message
    (made,) = read(values, columns=column_names(["prompt=ask,ignore=Weight,ignore=train,system=System"]))
    assert made.messages[0] == Message("system", "s")
    odd = said({"prompt": "q", "response": "a", "my label": 1, "Label ": 0}, columns=column_names(["ignore=my label"]))
    assert "--data.columns 'ignore=my label,ignore=Label '" in odd, "a shell reads it as one word"


def test_two_columns_for_one_thing_are_not_chosen_between_in_silence() -> None:
    for first, second, third in (("prompt", "question", "response"), ("response", "completion", "prompt")):
        values = {first: "q", second: "r", third: "a"}
        message = said(values)
        assert f'"{first}" and "{second}" can both be' in message and f"--data.columns ignore={second}" in message
        assert len(read(values, columns=column_names([f"ignore={second}"]))) == 1
    reading = Reading(bad=BadRows(False))
    same = {"prompt": "q", "question": "q", "response": "a"}
    assert len(list(read_records(iter(rows(same)), reading))) == 1
    assert (reading.used, reading.carried) == ({"prompt", "response"}, {"question"}), "one of them is read"
    assert read({"prompt": "q", "question": "r"}) == [Prompt((Message("user", "q"),))], "a reward function may ask"


@pytest.mark.parametrize(
    ("names", "winner", "chosen"),
    [
        (("answer_a", "answer_b"), "a", "x"),
        (("answer_a", "answer_b"), "B", "y"),
        (("response_a", "response_b"), "response_b", "y"),
        (("answer_a", "answer_b"), "model_a", "x"),
        (("answer_0", "answer_1"), 0, "x"),
        (("answer_0", "answer_1"), 1.0, "y"),
        (("answer_1", "answer_2"), "1", "x"),
        (("response_1", "response_2"), "response_2", "y"),
    ],
)
def test_a_winner_names_one_of_two_answers(names: tuple[str, str], winner: object, chosen: str) -> None:
    (made,) = read({"prompt": "q", names[0]: "x", names[1]: "y", "winner": winner})
    assert (made.chosen, made.rejected) == (chosen, "x" if chosen == "y" else "y")
    assert read({"prompt": "q", names[0]: "x", names[1]: "y", "winner": "tie"}) == [Drop.TIE]


@pytest.mark.parametrize("winner", [1, "1", 2, True, None, "extra", "c", 0.5])
def test_a_winner_that_names_neither_is_refused(winner: object) -> None:
    """Beside a and b, 1 is the second answer for who counts from 0 and the first for who counts from 1."""
    good = {"prompt": "q", "answer_a": "x", "answer_b": "y", "winner": "a"}
    message = said(good, {**good, "winner": winner})
    assert '"winner" must be a, b or tie' in message
    assert ("--data.columns answer_0=answer_a,answer_1=answer_b" in message) == (str(winner) in "012")


def test_one_of_two_answers_alone_is_no_prompt() -> None:
    assert 'no "answer_0"' in said({"prompt": "q", "answer_1": "x", "winner": 1})


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ({"prompt": "q", "answer_a": "x", "answer_b": "y"}, "winner=COLUMN"),
        ({"prompt": "q", "answer_a": "x", "answer_b": "y", "better": "b"}, "winner=better"),
        ({"question": "q", "Completion 1": "x", "Completion 2": "y", "preferred": "2"},
         "'answer_1=Completion 1,answer_2=Completion 2'"),
        ({"ask": "q", "summary_0": "x", "summary_1": "y", "label": 1},
         "answer_0=summary_0,answer_1=summary_1,prompt=COLUMN,winner=label"),
    ],
)  # fmt: skip
def test_two_answers_under_other_names_are_told_the_mapping(values: dict[str, Any], wanted: str) -> None:
    assert f"--data.columns {wanted}, where winner is" in said(values)
    names = column_names([wanted.strip("'").replace("prompt=COLUMN", "prompt=ask")])
    if "COLUMN" not in str(names):
        (made,) = read(values, columns=names)
        assert (made.chosen, made.rejected) == ("y", "x")


def test_choices_and_numbered_columns_of_a_prompt_are_no_pair() -> None:
    asked = [Prompt((Message("user", "q"),))]
    assert read({"prompt": "q", "option_a": "x", "option_b": "y", "answer": "a"}) == asked
    assert read({"prompt": "q", "text_1": 1, "text_2": 2}) == asked


def test_columns_are_mapped() -> None:
    names = column_names(["prompt=ask,response=reply", "system=sys"])
    (made,) = read({"ask": "q", "reply": "good", "sys": "s"}, columns=names)
    assert made == Demonstration((Message("system", "s"), Message("user", "q"), Message("assistant", "good")), 2)
    safer = column_names(["better_response_id=safer_response_id"])
    values = {"prompt": "q", "response_0": "bad", "response_1": "good", "better_response_id": 1, "safer_response_id": 0}
    assert [p.chosen for p in read(values)] == ["good"]
    assert [p.chosen for p in read(values, columns=safer)] == ["bad"]
    for wrong, about in (("prompt", "is not NAME=COLUMN"), ("a=x,a=y", "stands twice"), ("a=x,b=x", "stands twice")):
        with pytest.raises(UserError, match=about):
            column_names([wrong])


def test_a_misspelt_alternative_is_not_read_as_prompts() -> None:
    assert said({"prompt": "q", "respones": "a"}).startswith(
        'x.jsonl line 1: no "response" (found: prompt, respones). Did you mean "respones"?'
    )


def test_every_column_is_in_the_books() -> None:
    reading = Reading(bad=BadRows(False))
    values = {"prompt": "q", "chosen": "a", "rejected": "b", "data_source": "d", "id": 1, "margin": 2}
    assert len(list(read_records(iter(rows(values)), reading))) == 1
    assert (reading.used, reading.carried) == ({"prompt", "chosen", "rejected", "margin"}, {"data_source", "id"})
