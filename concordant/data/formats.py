"""The formats data comes in: the columns that tell each, how its rows are read, and a row of it.

``FORMATS`` is the whole list, the more demanding before the less: the first whose columns are there is the one
(``data/recognise.py``). docs/data.md shows every example; a test reads each and says what it becomes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from concordant.config.names import DataFormat
from concordant.data import read_dialogues as one
from concordant.data import read_pairs as two
from concordant.data import read_rankings as many
from concordant.data.carried import VERL_COLUMNS
from concordant.data.dialogue import is_hh
from concordant.data.format import Format
from concordant.data.strength import VOTES


def _are(kind: type | tuple[type, ...], *columns: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda values: all(isinstance(values.get(column), kind) for column in columns)


def _hh_sides(values: Mapping[str, Any]) -> bool:
    return _are(str, "chosen", "rejected")(values) and any(is_hh(values[side]) for side in ("chosen", "rejected"))


def _alike(values: Mapping[str, Any]) -> bool:
    return _are(str, "chosen", "rejected")(values) and bool(two.shared_start(values["chosen"], values["rejected"]))


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def _bot(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


Q, GOOD, BAD = "A joke?", "Gladly. An owl walks in.", "No."
ASK, GOOD_TALK, BAD_TALK = [_user(Q)], [_user(Q), _bot(GOOD)], [_user(Q), _bot(BAD)]
PAIR = ("margin", "probability", *VOTES, *VERL_COLUMNS)
MESSAGES = "messages|conversations|conversation"
LABEL = "label|kto_tag"
INPUTS = ("input", "context", "history")

_PAIRS = (
    Format(
        name="sharegpt_preference",
        gives="pair",
        columns=("conversations|conversation", "chosen", "rejected"),
        optional=PAIR,
        read=two.sharegpt_preference,
        example={
            "conversations": [{"from": "human", "value": Q}],
            "chosen": {"from": "gpt", "value": GOOD},
            "rejected": {"from": "gpt", "value": BAD},
        },
    ),
    Format(
        name="alpaca_preference",
        gives="pair",
        columns=("instruction", "chosen|chosen_response", "rejected|rejected_response"),
        optional=("chosen_avg_rating", "rejected_avg_rating", *INPUTS, *PAIR),
        read=two.alpaca_preference,
        example={"instruction": Q, "input": "", "chosen": GOOD, "rejected": BAD},
    ),
    Format(
        name="preference",
        gives="pair",
        columns=("prompt|question|query|input", "chosen", "rejected"),
        optional=("score_chosen", "score_rejected", "generations", "rating", *PAIR),
        read=two.preference,
        example={"prompt": Q, "chosen": GOOD, "rejected": BAD},
    ),
    Format(
        name="hh",
        gives="pair",
        columns=("chosen", "rejected"),
        optional=PAIR,
        read=two.hh,
        accepts=_hh_sides,
        example={"chosen": f"\n\nHuman: {Q}\n\nAssistant: {GOOD}", "rejected": f"\n\nHuman: {Q}\n\nAssistant: {BAD}"},
    ),
    Format(
        name="implicit",
        gives="pair",
        columns=("chosen", "rejected"),
        optional=("score_chosen", "score_rejected", *PAIR),
        read=two.implicit,
        accepts=_are(list, "chosen", "rejected"),
        example={"chosen": GOOD_TALK, "rejected": BAD_TALK},
    ),
    Format(
        name="implicit_text",
        gives="pair",
        columns=("chosen", "rejected"),
        optional=PAIR,
        read=two.implicit_text,
        accepts=_alike,
        example={"chosen": "The sky is blue.", "rejected": "The sky is green."},
    ),
    Format(
        name="swift_preference",
        gives="pair",
        columns=("messages", "rejected_response|rejected_messages"),
        optional=PAIR,
        read=two.swift_preference,
        example={"messages": GOOD_TALK, "rejected_response": BAD},
    ),
    Format(
        name="openai_preference",
        gives="pair",
        columns=("input", "preferred_output", "non_preferred_output"),
        optional=PAIR,
        read=two.openai_preference,
        example={"input": {"messages": ASK}, "preferred_output": [_bot(GOOD)], "non_preferred_output": [_bot(BAD)]},
    ),
    Format(
        name="pku_saferlhf",
        gives="pair",
        columns=("prompt", "response_0", "response_1", "better_response_id"),
        optional=PAIR,
        read=two.pku_saferlhf,
        example={"prompt": Q, "response_0": BAD, "response_1": GOOD, "better_response_id": 1, "safer_response_id": 0},
    ),
    Format(
        name="helpsteer2_preference",
        gives="pair",
        columns=("prompt", "response_1", "response_2", "preference_strength"),
        optional=PAIR,
        read=two.helpsteer2_preference,
        example={"prompt": Q, "response_1": GOOD, "response_2": BAD, "preference_strength": -2},
    ),
    Format(
        name="helpsteer3",
        gives="pair",
        columns=("context", "response1", "response2", "overall_preference"),
        optional=PAIR,
        read=two.helpsteer3,
        example={"context": ASK, "response1": BAD, "response2": GOOD, "overall_preference": 2},
    ),
    Format(
        name="shp",
        gives="pair",
        columns=("history", "human_ref_A", "human_ref_B", "labels"),
        optional=PAIR,
        read=two.shp,
        example={"history": Q, "human_ref_A": GOOD, "human_ref_B": BAD, "labels": 1},
    ),
    Format(
        name="webgpt",
        gives="pair",
        columns=("question", "answer_0", "answer_1", "score_0", "score_1"),
        optional=PAIR,
        read=two.webgpt,
        example={"question": {"full_text": Q}, "answer_0": GOOD, "answer_1": BAD, "score_0": 0.5, "score_1": -0.5},
    ),
    Format(
        name="summarize_from_feedback",
        gives="pair",
        columns=("info", "summaries", "choice"),
        optional=PAIR,
        read=two.summaries,
        example={
            "info": {"post": "I met an owl. It told a joke.", "title": "Owls", "subreddit": "birds"},
            "summaries": [{"text": "An owl."}, {"text": "An owl told a joke."}],
            "choice": 1,
        },
    ),
    Format(
        name="arena_55k",
        gives="pair",
        columns=("prompt", "response_a", "response_b", "winner_model_a", "winner_model_b"),
        optional=("winner_tie", *PAIR),
        read=two.arena_55k,
        example={
            "prompt": f'["{Q}"]',
            "response_a": f'["{GOOD}"]',
            "response_b": f'["{BAD}"]',
            "winner_model_a": 1,
            "winner_model_b": 0,
            "winner_tie": 0,
        },
    ),
    Format(
        name="arena_33k",
        gives="pair",
        columns=("conversation_a", "conversation_b", "winner"),
        optional=PAIR,
        read=two.arena_33k,
        example={"conversation_a": BAD_TALK, "conversation_b": GOOD_TALK, "winner": "model_b"},
    ),
    Format(
        name="argilla",
        gives="pair",
        columns=("fields", "responses|suggestions"),
        reads_all="responses|suggestions",
        read=two.argilla,
        example={
            "fields": {"prompt": Q, "response1": GOOD, "response2": BAD},
            "responses": {"preference": [{"value": "response1"}]},
        },
    ),
    Format(
        name="two_answers",
        gives="pair",
        columns=two.TWO_ANSWERS,
        optional=PAIR,
        read=two.side_by_side,
        example={"prompt": Q, "answer_a": BAD, "answer_b": GOOD, "winner": "b"},
    ),
)

_RANKINGS = (
    Format(
        name="nectar",
        gives="pairs",
        columns=("prompt", "answers"),
        optional=VERL_COLUMNS,
        read=many.nectar,
        example={"prompt": Q, "answers": [{"answer": GOOD, "rank": 1}, {"answer": BAD, "rank": 2}]},
    ),
    Format(
        name="ultrafeedback",
        gives="pairs",
        columns=("instruction", "completions"),
        optional=(*INPUTS, *VERL_COLUMNS),
        read=many.ultrafeedback,
        example={
            "instruction": Q,
            "completions": [{"response": BAD, "overall_score": 2}, {"response": GOOD, "overall_score": 8.5}],
        },
    ),
    Format(
        name="distilabel_ratings",
        gives="pairs",
        columns=("instruction|prompt|input", "generations", "ratings"),
        optional=(*INPUTS, *VERL_COLUMNS),
        read=many.distilabel_ratings,
        example={"instruction": Q, "generations": [GOOD, BAD], "ratings": [5, 1]},
    ),
    Format(
        name="oasst_tree",
        gives="pairs",
        columns=("message_tree_id", "prompt"),
        read=many.oasst_tree,
        example={
            "message_tree_id": "t",
            "prompt": {
                "text": Q,
                "role": "prompter",
                "replies": [
                    {"text": GOOD, "role": "assistant", "rank": 0, "replies": []},
                    {"text": BAD, "role": "assistant", "rank": 1, "replies": []},
                ],
            },
        },
    ),
    Format(
        name="oasst",
        gives="pairs",
        columns=("message_id", "parent_id", "role", "text"),
        optional=("rank",),
        harmless=("labels",),  # what readers said of the message: spam, humour, …
        read_together=many.oasst,
        example={"message_id": "a", "parent_id": None, "role": "prompter", "text": Q},
        more=(
            {"message_id": "b", "parent_id": "a", "role": "assistant", "text": GOOD, "rank": 0},
            {"message_id": "c", "parent_id": "a", "role": "assistant", "text": BAD, "rank": 1},
        ),
    ),
    Format(
        name="scored",
        gives="pairs",
        columns=("prompt|question|instruction", "response|completion|output|generation", "|".join(many.SCORES)),
        optional=INPUTS,
        reads_all="|".join(many.SCORES),
        read_together=many.scored_together,
        example={"prompt": Q, "response": GOOD, "helpfulness": 4, "correctness": 4},
        more=({"prompt": Q, "response": BAD, "helpfulness": 0, "correctness": 1},),
    ),
)

_RATED = (
    Format(
        name="stepwise",
        gives="rated answer",
        columns=("prompt", "completions", "labels"),
        read=one.stepwise,
        accepts=_are((list, str), "completions", "labels"),
        example={"prompt": "2 + 2 + 1?", "completions": ["2 + 2 is 4.", "4 + 1 is 6."], "labels": [True, False]},
    ),
    Format(
        name="rated_messages",
        gives="rated answer",
        columns=(MESSAGES, LABEL),
        read=one.rated_messages,
        example={"messages": BAD_TALK, "label": False},
    ),
    Format(
        name="rated_alpaca",
        gives="rated answer",
        columns=("instruction", "output|response", LABEL),
        optional=INPUTS,
        read=one.rated_alpaca,
        example={"instruction": Q, "input": "", "output": BAD, "kto_tag": False},
    ),
    Format(
        name="unpaired",
        gives="rated answer",
        columns=("completion|response", LABEL),
        optional=("prompt", "question", "query"),
        read=one.unpaired,
        example={"prompt": Q, "completion": BAD, "label": False},
    ),
)

_DIALOGUES = (
    Format(
        name="messages",
        gives="dialogue",
        columns=("messages",),
        read=one.messages_row,
        example={"messages": [{"role": "system", "content": "Be brief."}, _user(Q), _bot(GOOD)]},
    ),
    Format(
        name="sharegpt",
        gives="dialogue",
        columns=("conversations|conversation",),
        read=one.messages_row,
        example={"conversations": [{"from": "human", "value": Q}, {"from": "gpt", "value": GOOD}]},
    ),
    Format(
        name="alpaca",
        gives="dialogue",
        columns=("instruction", "output|response|generation"),
        optional=INPUTS,
        read=one.alpaca,
        example={"instruction": "Tell a joke about:", "input": "owls", "output": GOOD},
    ),
    Format(
        name="prompt_response",
        gives="dialogue",
        columns=("prompt|question|query", "response|completion"),
        optional=("first_response", "history", "reasoning_content"),
        read=one.prompt_response,
        example={"prompt": Q, "response": GOOD},
    ),
    Format(
        name="verl",
        gives="prompt",
        columns=("data_source", "prompt"),
        optional=VERL_COLUMNS,
        read=one.prompt_only,
        example={
            "data_source": "sums",
            "prompt": [_user("2 + 2")],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": "4"},
            "extra_info": {"index": 0},
        },
    ),
    Format(name="text", gives="dialogue", columns=("text",), read=one.text, example={"text": "Owls hunt at night."}),
    Format(
        name="prompt",
        gives="prompt",
        columns=("prompt|question|query",),
        optional=VERL_COLUMNS,
        read=one.prompt_only,
        example={"prompt": Q},
    ),
)

FORMATS: dict[DataFormat, Format] = {f.name: f for f in (*_PAIRS, *_RANKINGS, *_RATED, *_DIALOGUES)}
KNOWN_COLUMNS = {name for f in FORMATS.values() for column in f.columns for name in column.split("|")}
