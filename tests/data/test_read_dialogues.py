"""Dialogues: which of their messages are learnt, and what stands before, between and around them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from concordant.data.dialogue import Drop
from concordant.data.records import Demonstration, Message
from tests.data.reading import bot, pair, read, said, user


@pytest.mark.parametrize(
    "values",
    [
        {"messages": [user("q"), bot("good")], "system": "s"},
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "good"}], "system": "s"},
        {"prompt": "q", "response": "good", "system_prompt": "s"},
        {"instruction": "q", "output": "good", "system": "s"},
    ],
)
def test_a_system_column_opens_the_dialogue(values: dict[str, Any]) -> None:
    asked = (Message("system", "s"), Message("user", "q"), Message("assistant", "good"))
    assert read(values) == [Demonstration(asked, 2)]


def test_a_system_column_beside_another_system_message_is_refused() -> None:
    assert 'a "system" column beside text' in said({"text": "Owls hunt.", "system": "s"})
    values = {"messages": [{"role": "system", "content": "t"}, user("q"), bot("good")], "system": "s"}
    assert 'a "system" column and another system message' in said(values)


def test_tools_and_thoughts_are_kept() -> None:
    tools = [{"type": "function", "function": {"name": "lookup"}}]
    for written in (tools, json.dumps(tools)):
        (made,) = read({"messages": [user("q"), bot("good", reasoning_content="hm")], "tools": written})
        assert made.tools == tuple(tools)
        assert made.messages[-1] == Message("assistant", "good", "hm")
    (made,) = read({"prompt": "q", "response": "good", "reasoning_content": "hm"})
    assert made.messages[-1].reasoning_content == "hm"
    for key in ("thinking", "reasoning"):  # as gpt-oss' data and some servers call it
        (made,) = read({"messages": [user("q"), bot("good", **{key: "hm"})]})
        assert made.messages[-1].reasoning_content == "hm"


def test_messages_of_weight_0_are_read_and_not_learnt() -> None:
    turns = [user("q"), bot("a", weight=0), user("r"), bot("b", weight=1)]
    (made,) = read({"messages": turns})
    assert (len(made.messages), made.first_response) == (4, 3)
    middle = [user("q"), bot("a"), user("r"), bot("b", train=False), user("s"), bot("c")]
    assert [(len(m.messages), m.first_response) for m in read({"messages": middle})] == [(2, 1), (6, 5)]
    assert read({"messages": [user("q"), bot("a", weight=0)]}) == [Drop.NOTHING_LEARNT]
    assert '"messages.weight" must be 1 or 0' in said({"messages": [user("q"), bot("a", weight=0.5)]})


def test_tool_roles_and_content_in_parts() -> None:
    parts = [{"type": "text", "text": "q "}, {"type": "text", "text": "r"}]
    (made,) = read({"messages": [user(parts), bot("call"), {"role": "tool", "content": "4"}, bot("It is 4.")]})  # type: ignore[arg-type]
    assert [(m.role, m.content) for m in made.messages] == [
        ("user", "q r"),
        ("assistant", "call"),
        ("tool", "4"),
        ("assistant", "It is 4."),
    ]
    turns = [{"from": "human", "value": "q"}, {"from": "function_call", "value": "f()"},
             {"from": "observation", "value": "4"}, {"from": "gpt", "value": "It is 4."}]  # fmt: skip
    (made,) = read({"conversations": turns})
    assert [m.role for m in made.messages] == ["user", "assistant", "tool", "assistant"]
    picture = [{"type": "image_url", "image_url": {"url": "x"}}]
    assert '"messages.content" must be text or parts of text' in said({"messages": [user(picture), bot("a")]})  # type: ignore[arg-type]
    calls = bot("", tool_calls=[{"function": {"name": "f"}}])
    assert '"messages.tool_calls" is not supported' in said({"messages": [user("q"), calls]})


def test_answers_that_both_repeat_a_plain_prompt_are_split() -> None:
    ask = "Question: why?\nAnswer:"
    assert read({"prompt": ask, "chosen": f"{ask} good", "rejected": f"{ask} bad"}) == [pair(ask)]
    (made,) = read({"prompt": "I", "chosen": "I agree", "rejected": "I do not"})
    assert (made.chosen, made.rejected) == ("I agree", "I do not")
    (made,) = read({"prompt": "say it", "chosen": "say it again", "rejected": "no"})
    assert made.chosen == "say it again"


def test_turns_are_merged_on_request() -> None:
    system = {"role": "system", "content": "s"}
    turns = [user("a"), user("b"), bot("c"), system, user("d"), bot("e"), bot("f")]
    (kept,) = read({"messages": turns})
    assert len(kept.messages) == 7
    (made,) = read({"messages": turns}, merge_turns=True)
    assert [(m.role, m.content) for m in made.messages] == [
        ("user", "a\n\nb"),
        ("assistant", "c"),
        ("user", "s\n\nd"),
        ("assistant", "e\n\nf"),
    ]
    assert made.first_response == 1
    assert made.where == "x.jsonl line 1"
