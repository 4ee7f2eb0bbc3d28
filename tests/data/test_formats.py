"""Every format of docs/data.md is recognised without a flag; every slip is named (faults.md, rows 16 and 17)."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from concordant.core.errors import UserError
from concordant.data.carried import Wanted
from concordant.data.dialogue import Drop
from concordant.data.formats import FORMATS
from concordant.data.recognise import Reading, read_records, recognise
from concordant.data.records import Demonstration, Message, Pair, Prompt, Rating, Record
from concordant.data.rows import BadRows, Row

Q, A = Message("user", "q"), Message("assistant", "a")
PAIR = Pair((Q,), "good", "bad")
USER, GOOD, BAD = ({"role": r, "content": c} for r, c in (("user", "q"), ("assistant", "good"), ("assistant", "bad")))


def rows(*values: dict[str, Any]) -> list[Row]:
    return [Row(file="x.jsonl", unit="line", number=number, values=v) for number, v in enumerate(values, start=1)]


def read(*values: dict[str, Any], name: str = "auto", skip: bool = False) -> list[Record | Drop]:
    return list(
        read_records(iter(rows(*values)), Reading(bad=BadRows(skip), format=name, wanted=Wanted(frozenset(VERL))))
    )


VERL = {
    "data_source": "gsm8k",
    "ability": "math",
    "reward_model": {"style": "rule", "ground_truth": "4"},
    "extra_info": {"index": 0},
}

EXAMPLES: list[tuple[str, dict[str, Any], Record]] = [
    ("hh", {"chosen": "\n\nHuman: q\n\nAssistant: good", "rejected": "\n\nHuman: q\n\nAssistant: bad"}, PAIR),
    ("preference", {"prompt": "q", "chosen": "good", "rejected": "bad"}, PAIR),
    ("preference", {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]}, PAIR),
    ("preference", {"prompt": "q", "chosen": [USER, GOOD], "rejected": [USER, BAD]}, PAIR),
    ("preference", {"prompt": "\n\nHuman: q\n\nAssistant:", "chosen": " good", "rejected": " bad"}, PAIR),
    ("preference", {"prompt": '[{"role": "user", "content": "q"}]', "chosen": "good", "rejected": "bad"}, PAIR),
    (
        "preference",
        {"prompt": "q", "chosen": "good", "rejected": "bad", "margin": 2, "probability": "0.75"},
        Pair((Q,), "good", "bad", margin=2.0, probability=0.75),
    ),
    ("implicit", {"chosen": [USER, GOOD], "rejected": [USER, BAD]}, PAIR),
    (
        "sharegpt_preference",
        {
            "conversations": [{"from": "human", "value": "q"}],
            "chosen": {"from": "gpt", "value": "good"},
            "rejected": {"from": "gpt", "value": "bad"},
        },
        PAIR,
    ),
    (
        "sharegpt",
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        Demonstration((Q, A), 1),
    ),
    (
        "messages",
        {"messages": [USER, GOOD, USER, BAD]},
        Demonstration((Q, Message("assistant", "good"), Q, Message("assistant", "bad")), 1),
    ),
    (
        "messages",
        {"messages": '[{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]'},
        Demonstration((Q, A), 1),
    ),
    ("messages", {"messages": [USER]}, Prompt((Q,))),
    ("prompt_response", {"prompt": "q", "response": "a"}, Demonstration((Q, A), 1)),
    ("prompt_response", {"prompt": "q", "completion": "a"}, Demonstration((Q, A), 1)),
    (
        "prompt_response",
        {"prompt": "\n\nHuman: q\n\nAssistant: a\n\nHuman: q", "response": "a"},
        Demonstration((Q, A, Q, A), 3),
    ),
    ("alpaca", {"instruction": "q", "input": "", "output": "a"}, Demonstration((Q, A), 1)),
    ("alpaca", {"instruction": "q", "input": "i", "output": "a"}, Demonstration((Message("user", "q\n\ni"), A), 1)),
    (
        "alpaca",
        {"instruction": "q", "input": None, "output": "a", "system": "s", "history": [["q", "a"]]},
        Demonstration((Message("system", "s"), Q, A, Q, A), 4),
    ),
    ("text", {"text": "a"}, Demonstration((A,), 0)),
    ("text", {"text": "\n\nHuman: q\n\nAssistant: a"}, Demonstration((Q, A), 1)),
    ("unpaired", {"prompt": "q", "completion": "a", "label": True}, Rating((Q,), "a", True)),
    ("unpaired", {"prompt": "q", "completion": "a", "label": "0"}, Rating((Q,), "a", False)),
    ("unpaired", {"completion": "\n\nHuman: q\n\nAssistant: a", "label": 1}, Rating((Q,), "a", True)),
    ("verl", {"prompt": [USER], **VERL}, Prompt((Q,), VERL)),
    ("prompt", {"prompt": "q"}, Prompt((Q,))),
]


@pytest.mark.parametrize(("name", "values", "record"), EXAMPLES)
def test_formats_are_recognised_and_read(name: str, values: dict[str, Any], record: Record) -> None:
    assert recognise(rows(values)).name == name
    assert read(values) == [record]


def test_the_documentation_lists_these_formats_and_its_examples_are_read() -> None:
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    table = page.split("## Formats")[1].split("###")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.M)) == set(FORMATS)
    reason = set(re.findall(r"`([a-z =]+)`", page.split("## What is dropped")[1].split("A row that cannot be read")[0]))
    assert reason >= {str(drop) for drop in Drop}
    examples = []
    for block in re.findall(r"```json\n(.*?)```", page, re.S):
        decoder, at = json.JSONDecoder(), 0
        while at < len(block):
            values, at = decoder.raw_decode(block, at)
            at += len(block[at:]) - len(block[at:].lstrip())
            examples.append(values)
    for form in FORMATS.values():
        assert form.example in examples, f"docs/data.md does not show the example of {form.name}"


def test_the_seeds_rl_rows_are_pairs_that_keep_their_rule() -> None:
    assert read({"prompt": [USER], "chosen": "good", "rejected": "bad", **VERL}) == [
        Pair((Q,), "good", "bad", extra=VERL)
    ]
    as_text = VERL | {"reward_model": '{"style": "rule", "ground_truth": "4"}'}
    assert read({"prompt": [USER], **as_text}) == [Prompt((Q,), VERL)]


def hh(chosen: str, rejected: str) -> dict[str, str]:
    return {"chosen": chosen, "rejected": rejected}


START = "\n\nHuman: q\n\nAssistant: a\n\nHuman: more"

DROPS: list[tuple[dict[str, Any], Drop]] = [
    (hh(START + "\n\nAssistant: x", START + "!\n\nAssistant: y"), Drop.PROMPTS_DIFFER),
    (hh(START + "\n\nAssistant: x", "\n\nHuman: q\n\nAssistant: a"), Drop.PROMPTS_DIFFER),
    (hh(START + "\n\nAssistant: ", START + "\n\nAssistant: y"), Drop.EMPTY_RESPONSE),
    (hh(START + "\n\nAssistant: y ", START + "\n\nAssistant: y"), Drop.EQUAL),
    (hh(START, START + "\n\nAssistant: y"), Drop.RUNS_ON),
    (hh("\n\nHuman: q", "\n\nHuman: q\n\nAssistant: y"), Drop.NO_RESPONSE),
    (hh("\n\nHuman: \n\nAssistant: x", "\n\nHuman: \n\nAssistant: y"), Drop.EMPTY_PROMPT),
    (hh("\n\nAssistant: x", "\n\nAssistant: y"), Drop.EMPTY_PROMPT),
    (
        hh("\n\nHuman: q\n\nAssistant: a\n\nAssistant: x", "\n\nHuman: q\n\nAssistant: a\n\nAssistant: y"),
        Drop.PROMPT_ENDS_WITH_RESPONSE,
    ),
    ({"prompt": " ", "chosen": "x", "rejected": "y"}, Drop.EMPTY_PROMPT),
    ({"prompt": "q", "chosen": None, "rejected": "y"}, Drop.EMPTY_RESPONSE),
    ({"prompt": "\n\nHuman: q\n\nAssistant:", "chosen": "x\n\nHuman: z", "rejected": "y"}, Drop.RUNS_ON),
    ({"prompt": "q", "chosen": [{"role": "user", "content": "z"}, GOOD], "rejected": [USER, BAD]}, Drop.PROMPTS_DIFFER),
    ({"chosen": [USER, GOOD], "rejected": [USER, GOOD, USER, BAD]}, Drop.PROMPTS_DIFFER),
    ({"chosen": [USER, GOOD, USER], "rejected": [USER, BAD]}, Drop.RUNS_ON),
    ({"chosen": [USER], "rejected": [USER, BAD]}, Drop.NO_RESPONSE),
    ({"messages": [USER, {"role": "assistant", "content": " "}]}, Drop.EMPTY_RESPONSE),
    ({"messages": [GOOD]}, Drop.EMPTY_PROMPT),
    ({"messages": []}, Drop.EMPTY_PROMPT),
    ({"prompt": "q", "response": ""}, Drop.EMPTY_RESPONSE),
    ({"prompt": "", "response": "a"}, Drop.EMPTY_PROMPT),
    ({"text": "  "}, Drop.EMPTY_RESPONSE),
    ({"prompt": "q", "completion": "", "label": True}, Drop.EMPTY_RESPONSE),
]


@pytest.mark.parametrize(("values", "reason"), DROPS)
def test_rows_of_no_use_are_dropped_by_reason(values: dict[str, Any], reason: Drop) -> None:
    sample = rows({key: value if value is not None else "x" for key, value in values.items()})
    assert read(values, name=recognise(sample).name) == [reason]


def test_multi_turn_prompts_are_kept_whole() -> None:
    (pair,) = read(hh(START + "\n\nAssistant: x", START + "\n\nAssistant: y"))
    assert pair == Pair((Q, A, Message("user", "more")), "x", "y")


def test_the_last_answer_of_a_dialogue_that_goes_on_is_the_last_learnt() -> None:
    assert read({"messages": [USER, GOOD, USER]}) == [Demonstration((Q, Message("assistant", "good")), 1)]
    greeting = {"role": "assistant", "content": "hello"}
    assert read({"messages": [greeting, USER, GOOD]}) == [
        Demonstration((Message("assistant", "hello"), Q, Message("assistant", "good")), 2)
    ]


def test_a_prompt_behind_a_system_message_is_not_repeated() -> None:
    system = {"role": "system", "content": "s"}
    (pair,) = read({"prompt": "q", "chosen": [system, USER, GOOD], "rejected": [system, USER, BAD]})
    assert pair == Pair((Message("system", "s"), Q), "good", "bad")


def test_a_column_that_is_null_everywhere_is_not_there() -> None:
    assert recognise(rows({"prompt": "q", "response": "a", "chosen": None, "rejected": None})).name == "prompt_response"


def message(*values: dict[str, Any], name: str = "auto") -> str:
    with pytest.raises(UserError) as caught:
        read(*values, name=name)
    return str(caught.value)


def test_a_misspelt_column() -> None:
    assert message({"prompt": "q", "choosen": "a"}).startswith(
        'x.jsonl line 1: no "chosen" (found: prompt, choosen). Did you mean "choosen"?\n'
        "expected one of the formats in docs/data.md; closest: prompt + chosen + rejected"
    )


@pytest.mark.parametrize(
    ("values", "missing", "closest"),
    [
        ({"prompt": "q", "chosen": "a"}, "rejected", "prompt + chosen + rejected"),
        ({"prompt": "q", "choosen": "a", "rejected": "b"}, "chosen", "prompt + chosen + rejected"),
        ({"prompt": "q", "completion": "a", "lable": True}, "label", "completion + label"),
        ({"conversations": [], "chosen": {}}, "rejected", "conversations + chosen + rejected"),
        ({"chosen": "a", "rejected": "b"}, "prompt", "prompt + chosen + rejected"),
        ({"mesages": []}, "messages", "messages"),
        ({"instruction": "q", "ouput": "a"}, "output", "instruction + output"),
    ],
)
def test_half_a_format_is_an_error_and_never_read_as_a_simpler_one(values: dict, missing: str, closest: str) -> None:
    said = message(values)
    assert said.startswith(f'x.jsonl line 1: no "{missing}" (found: {", ".join(values)})')
    assert f"closest: {closest}" in said


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"prompt": None, "chosen": None, "rejected": None}, "every value is null"),
        ({"aa": "1", "bb": "2"}, "no known column"),
    ],
)
def test_where_no_column_says_anything_no_format_is_called_the_closest(values: dict, what: str) -> None:
    said = message(values)
    assert said.startswith(f"x.jsonl line 1: {what} (found: {', '.join(values)}).") and "closest" not in said


def test_a_format_can_be_forced() -> None:
    values = {"prompt": "q", "completion": "a", "lable": "x"}
    assert "--data.format=prompt_response" in message(values)
    assert read(values, name="prompt_response") == [Demonstration((Q, A), 1)]


def test_a_later_row_without_the_column_is_named_by_line() -> None:
    said = message({"prompt": "q", "response": "a"}, {"prompt": "q", "reponse": "a"})
    assert said.startswith('x.jsonl line 2: no "response" (found: prompt, reponse). Did you mean "reponse"?')


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"messages": [{"role": "asistant", "content": "a"}]}, "has the role 'asistant'. Did you mean \"assistant\"?"),
        ({"messages": [{"role": "user"}]}, '"messages" must be a message, {"role": …'),
        ({"messages": [{"role": "user", "content": 3}]}, '"messages.content" must be a string, found a number (3)'),
        ({"messages": "[not json"}, '"messages" must be a list of messages (as JSON text), found a string'),
        (
            {"messages": '[{"role": "user", "content": "a", "content": "b"}]'},
            '"messages" must be a list of messages (as JSON text), found a string',
        ),
        ({"messages": {}}, '"messages" must be a list of messages, found an object ({})'),
        ({"prompt": 7, "response": "a"}, '"prompt" must be a string, found a number (7)'),
        ({"prompt": "q", "response": ["a"]}, '"response" must be a message'),
        (
            {"prompt": "q", "completion": "a", "label": "good"},
            '"label" must be true or false (or 1 or 0), found a string',
        ),
        ({"prompt": "q", "completion": "a", "label": 0.5}, '"label" must be true or false (or 1 or 0), found a number'),
        ({"prompt": "q", "chosen": "a", "rejected": "b", "margin": "much"}, '"margin" must be a finite number'),
        ({"prompt": "q", "chosen": "a", "rejected": "b", "probability": 2}, '"probability" must be a number in [0, 1]'),
        ({"prompt": "q", "response": "\ud800"}, '"response" is not valid Unicode'),
        ({"instruction": "q", "output": "a", "history": ["x"]}, '"history" must be a list of [question, answer]'),
    ],
)
def test_wrong_types_and_roles_are_named(values: dict[str, Any], said: str) -> None:
    found = message(values)
    assert found.startswith('x.jsonl line 1: "')
    assert said in found


def test_bad_rows_are_counted_by_reason_when_skipped() -> None:
    bad = BadRows(skip=True)
    values: list[dict[str, Any]] = [
        {"messages": [USER, GOOD]},
        {"messages": [{"role": "me", "content": ""}]},
        {"message": []},
        {"messages": 3},
    ]
    assert len(list(read_records(iter(rows(*values)), Reading(bad=bad)))) == 1
    assert bad.counts == {"wrong role": 1, "missing column": 1, "wrong type": 1}


def test_files_of_different_formats_side_by_side() -> None:
    both = [
        Row(file="a", unit="line", number=1, values={"prompt": "q", "response": "a"}),
        Row(file="b", unit="line", number=1, values={"text": "a"}),
    ]
    reading = Reading(bad=BadRows(False))
    assert len(list(read_records(iter(both), reading))) == 2
    assert reading.formats == {"prompt_response", "text"}
