"""Data sets that people have, each as a row or two of its own columns: the right pairs, and what the verdict means."""

from __future__ import annotations

import json
from typing import Any

import pytest

from concordant.core.errors import UserError
from concordant.data.columns import column_names
from concordant.data.dialogue import Drop
from concordant.data.formats import FORMATS
from concordant.data.recognise import Reading, read_records, recognise
from concordant.data.records import Demonstration, Message, Pair, Prompt, Rating
from concordant.data.rows import BadRows, Row

KINDS = {"pair": Pair, "pairs": Pair, "dialogue": Demonstration, "rated answer": Rating, "prompt": Prompt}


def rows(*values: dict[str, Any]) -> list[Row]:
    return [Row(file="x.jsonl", unit="line", number=number, values=v) for number, v in enumerate(values, start=1)]


def read(*values: dict[str, Any], **how: Any) -> list[Any]:
    return list(read_records(iter(rows(*values)), Reading(bad=BadRows(False), **how)))


def said(*values: dict[str, Any], **how: Any) -> str:
    with pytest.raises(UserError) as caught:
        read(*values, **how)
    return str(caught.value)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def bot(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def pair(prompt: str = "q", margin: float | None = None, system: str = "", chosen: str = "good") -> Pair:
    before = (Message("system", system),) if system else ()
    return Pair((*before, Message("user", prompt)), chosen, "bad", margin=margin)


@pytest.mark.parametrize("name", FORMATS)
def test_the_example_of_every_format_is_recognised_and_becomes_what_the_table_says(name: str) -> None:
    form = FORMATS[name]  # type: ignore[index]
    values = [form.example, *form.more]
    assert recognise(rows(*values)).name == name
    assert {type(record) for record in read(*values)} == {KINDS[form.gives]}


def in_parts(text: str) -> Any:
    return [{"type": "text", "text": text, "image": None, "mimeType": None}]


SETS: dict[str, tuple[str, list[dict[str, Any]], list[Any]]] = {
    "orca_dpo": (
        "preference",
        [{"system": "s", "question": "q", "chosen": "good", "rejected": "bad"}],
        [pair(system="s")],
    ),
    "orca_dpo without a system message": (
        "preference",
        [{"system": "", "question": "q", "chosen": "good", "rejected": "bad"}],
        [pair()],
    ),
    "argilla's orca pairs": (
        "preference",
        [{"system": "s", "input": "q", "chosen": "good", "rejected": "bad", "generations": ["good", "bad"],
          "status": "tie", "order": ["a", "b"]}],
        [pair(system="s")],
    ),
    "distilabel's orca pairs, as they are on the hub": (
        "preference",
        [{"system": "s", "input": "q", "chosen": "good", "rejected": "bad", "generations": ["bad", "good"],
          "order": ["a", "b"], "labelling_model": "m", "raw_labelling_response": "7 9", "rating": [7.0, 9.0],
          "rationale": "r", "status": "swapped", "chosen_score": 9.0, "in_gsm8k_train": False},
         {"system": "", "input": "q", "chosen": "good", "rejected": "bad", "generations": ["good", "bad"],
          "rating": [9.0, 9.0], "status": "tie"}],
        [pair(margin=2.0, system="s"), Drop.TIE],
    ),
    "argilla's UltraFeedback pairs": (
        "alpaca_preference",
        [{"source": "s", "instruction": "q", "chosen_response": "good", "rejected_response": "bad",
          "chosen_avg_rating": 5.0, "rejected_avg_rating": 3.5, "chosen_model": "m"}],
        [pair(margin=1.5)],
    ),
    "TRL's UltraFeedback pairs": (
        "implicit",
        [{"chosen": [user("q"), bot("good")], "rejected": [user("q"), bot("bad")], "score_chosen": 8.5,
          "score_rejected": 7.0}],
        [pair(margin=1.5)],
    ),
    "OASST rows with readers' labels": (
        "oasst",
        [{"message_id": i, "parent_id": p, "text": t, "role": r, "rank": k, "deleted": False,
          "labels": {"name": ["spam"], "value": [0.0], "count": [3]}} for i, p, t, r, k in
         (("1", None, "q", "prompter", None), ("2", "1", "bad", "assistant", 1.0),
          ("3", "1", "good", "assistant", 0.0))],
        [pair()],
    ),
    "arena-140k, content in parts": (
        "arena_33k",
        [{"id": "1", "winner": winner, "evaluation_order": 1, "is_code": False,
          "conversation_a": [user(in_parts("q")), bot(in_parts("good"))],
          "conversation_b": [user(in_parts("q")), bot(in_parts("bad"))]}
         for winner in ("model_a", "both_bad")],
        [pair(), Drop.TIE],
    ),
    "gsm8k": ("prompt", [{"question": "q", "answer": "2 + 2 = 4 #### 4"}], [Prompt((Message("user", "q"),))]),
    "LLaMA-Factory DPO": (
        "alpaca_preference",
        [{"instruction": "q", "input": "i", "chosen": "good", "rejected": "bad"}],
        [pair("q\n\ni")],
    ),
    "LLaMA-Factory DPO, ShareGPT": (
        "sharegpt_preference",
        [{"conversations": [{"from": "human", "value": "q"}], "chosen": {"from": "gpt", "value": "good"},
          "rejected": {"from": "gpt", "value": "bad"}, "system": "s", "tools": "[]"}],
        [pair(system="s")],
    ),
    "PKU-SafeRLHF": (
        "pku_saferlhf",
        [{"prompt": "q", "response_0": "bad", "response_1": "good", "is_response_0_safe": True,
          "is_response_1_safe": False, "better_response_id": 1, "safer_response_id": 0}],
        [pair()],
    ),
    "HelpSteer2": (
        "scored",
        [{"prompt": "q", "response": "bad", "helpfulness": 1, "correctness": 4, "coherence": 4, "complexity": 2,
          "verbosity": 2},
         {"prompt": "q", "response": "good", "helpfulness": 4, "correctness": 0, "coherence": 0, "complexity": 1,
          "verbosity": 1},
         {"prompt": "tie", "response": "a", "helpfulness": 3},
         {"prompt": "tie", "response": "b", "helpfulness": 3},
         {"prompt": "alone", "response": "a", "helpfulness": 3}],
        [pair(margin=3.0), Drop.TIE, Drop.TIE, Drop.ONE_RESPONSE],
    ),
    "HelpSteer2-preference": (
        "helpsteer2_preference",
        [{"split": "train", "prompt": "q", "response_1": "good", "response_2": "bad", "preference_strength": -2,
          "preference_statement": "1 is better", "three_most_similar_preferences": []},
         {"split": "train", "prompt": "q", "response_1": "bad", "response_2": "good", "preference_strength": 1},
         {"split": "train", "prompt": "q", "response_1": "bad", "response_2": "good", "preference_strength": 0}],
        [pair(margin=2.0), pair(margin=1.0), Drop.TIE],
    ),
    "HelpSteer3": (
        "helpsteer3",
        [{"domain": "code", "language": "python", "context": [user("q")], "response1": "good", "response2": "bad",
          "overall_preference": -3, "individual_preference": []},
         {"context": [user("q")], "response1": "bad", "response2": "good", "overall_preference": 1}],
        [pair(margin=3.0), pair(margin=1.0)],
    ),
    "SHP": (
        "shp",
        [{"post_id": "p", "domain": "d", "history": "q", "human_ref_A": "good", "human_ref_B": "bad", "labels": 1,
          "score_A": 9, "score_B": 3, "score_ratio": 3.0, "seconds_difference": 1.0},
         {"history": "q", "human_ref_A": "bad", "human_ref_B": "good", "labels": 0}],
        [pair(), pair()],
    ),
    "Nectar": (
        "nectar",
        [{"prompt": "\n\nHuman: q\n\nAssistant: ", "turns": 1, "num_responses": 3, "source": ["x"],
          "good_natured": True, "answers": [{"answer": "bad", "model": "m", "rank": 3.0},
          {"answer": "fair", "model": "m", "rank": 2.0}, {"answer": "good", "model": "m", "rank": 1.0}]}],
        [pair()],
    ),
    "UltraFeedback raw": (
        "ultrafeedback",
        [{"source": "s", "instruction": "q", "models": ["a", "b"], "correct_answers": [], "incorrect_answers": [],
          "completions": [{"model": "a", "response": "bad", "overall_score": 2.0, "fine-grained_score": 1.5},
          {"model": "b", "response": "good", "overall_score": 1.0, "fine-grained_score": 4.5}]}],
        [pair(margin=3.0)],
    ),
    "UltraFeedback binarized": (
        "preference",
        [{"prompt": "q", "prompt_id": "1", "chosen": [user("q"), bot("good")], "rejected": [user("q"), bot("bad")],
          "messages": [user("q"), bot("good")], "score_chosen": 8.5, "score_rejected": 7.0}],
        [pair(margin=1.5)],
    ),
    "OASST rows": (
        "oasst",
        [{"message_id": "1", "parent_id": None, "text": "q", "role": "prompter", "rank": None, "lang": "en",
          "message_tree_id": "1"},
         {"message_id": "2", "parent_id": "1", "text": "bad", "role": "assistant", "rank": 1, "lang": "en",
          "message_tree_id": "1"},
         {"message_id": "3", "parent_id": "1", "text": "good", "role": "assistant", "rank": 0, "lang": "en",
          "message_tree_id": "1"},
         {"message_id": "4", "parent_id": "3", "text": "thanks", "role": "prompter", "rank": None, "lang": "en",
          "message_tree_id": "1"}],
        [pair(), Drop.OTHER_BRANCH],
    ),
    "arena-55k": (
        "arena_55k",
        [{"id": 0, "model_a": "x", "model_b": "y", "prompt": '["q"]', "response_a": '["good"]',
          "response_b": '["bad"]', "winner_model_a": 1, "winner_model_b": 0, "winner_tie": 0},
         {"id": 1, "model_a": "x", "model_b": "y", "prompt": '["q"]', "response_a": '["bad"]',
          "response_b": '["good"]', "winner_model_a": 0, "winner_model_b": 1, "winner_tie": 0},
         {"id": 2, "model_a": "x", "model_b": "y", "prompt": '["q"]', "response_a": '["bad"]',
          "response_b": '["good"]', "winner_model_a": 0, "winner_model_b": 0, "winner_tie": 1}],
        [pair(), pair(), Drop.TIE],
    ),
    "arena-33k": (
        "arena_33k",
        [{"question_id": "1", "model_a": "x", "model_b": "y", "winner": "model_b", "judge": "me", "turn": 1,
          "conversation_a": [user("q"), bot("bad")], "conversation_b": [user("q"), bot("good")]},
         {"question_id": "2", "model_a": "x", "model_b": "y", "winner": "tie (bothbad)", "judge": "me", "turn": 1,
          "conversation_a": [user("q"), bot("bad")], "conversation_b": [user("q"), bot("good")]}],
        [pair(), Drop.TIE],
    ),
    "lmsys-chat-1m": (
        "sharegpt",
        [{"conversation_id": "1", "model": "m", "conversation": [user("q"), bot("good")], "turn": 1,
          "language": "English", "openai_moderation": [{}], "redacted": False}],
        [Demonstration((Message("user", "q"), Message("assistant", "good")), 1)],
    ),
    "OpenAI preference": (
        "openai_preference",
        [{"input": {"messages": [user("q")], "tools": [], "parallel_tool_calls": True},
          "preferred_output": [bot("good")], "non_preferred_output": [bot("bad")]}],
        [pair()],
    ),
    "ms-swift": ("swift_preference", [{"messages": [user("q"), bot("good")], "rejected_response": "bad"}], [pair()]),
    "dolly": (
        "alpaca",
        [{"instruction": "q", "context": "c", "response": "good", "category": "open_qa"}],
        [Demonstration((Message("user", "q\n\nc"), Message("assistant", "good")), 1)],
    ),
    "OpenOrca": (
        "prompt_response",
        [{"id": "1", "system_prompt": "s", "question": "q", "response": "good"}],
        [Demonstration((Message("system", "s"), Message("user", "q"), Message("assistant", "good")), 2)],
    ),
    "distilabel": (
        "alpaca",
        [{"instruction": "q", "generation": "good", "distilabel_metadata": {}, "model_name": "m"}],
        [Demonstration((Message("user", "q"), Message("assistant", "good")), 1)],
    ),
    "Argilla 2": (
        "argilla",
        [{"id": "1", "status": "completed", "fields": {"instruction": "q", "response-1": "bad", "response-2": "good"},
          "metadata": {}, "suggestions": {}, "responses": {"which": [{"value": "response-2", "user_id": "u"}]},
          "vectors": {}}],
        [pair()],
    ),
    "webgpt": (
        "webgpt",
        [{"question": {"dataset": "d", "id": "1", "full_text": "q"}, "quotes_0": {}, "answer_0": "bad",
          "tokens_0": {}, "score_0": -0.5, "quotes_1": {}, "answer_1": "good", "tokens_1": {}, "score_1": 0.5}],
        [pair(margin=1.0)],
    ),
    "summarize_from_feedback": (
        "summarize_from_feedback",
        [{"info": {"id": "1", "post": "p", "title": "t", "subreddit": "r", "site": None, "article": None},
          "summaries": [{"text": " bad", "policy": "x", "note": ""}, {"text": " good", "policy": "y", "note": ""}],
          "choice": 1, "worker": "w", "batch": "b", "split": "train", "extra": {"confidence": None}}],
        [pair("SUBREDDIT: r\n\nTITLE: t\n\nPOST: p\n\nTL;DR:")],
    ),
    "TRL stepwise": (
        "stepwise",
        [{"prompt": "q", "completions": ["one", "two"], "labels": [True, False]},
         {"prompt": "q", "completions": ["one", "two"], "labels": [True, True]}],
        [Rating((Message("user", "q"),), "one\ntwo", False), Rating((Message("user", "q"),), "one\ntwo", True)],
    ),
    "implicit plain text": (
        "implicit_text",
        [{"chosen": "The sky is grand.", "rejected": "The sky is green."}],
        [Pair((Message("user", "The sky is"),), "grand.", "green.")],
    ),
    "KTO, TRL": (
        "unpaired",
        [{"prompt": [user("q")], "completion": [bot("bad")], "label": False}],
        [Rating((Message("user", "q"),), "bad", False)],
    ),
    "KTO, ms-swift": (
        "rated_messages",
        [{"messages": [user("q"), bot("bad")], "label": False}],
        [Rating((Message("user", "q"),), "bad", False)],
    ),
    "KTO, LLaMA-Factory": (
        "rated_alpaca",
        [{"instruction": "q", "input": "", "output": "good", "kto_tag": True}],
        [Rating((Message("user", "q"),), "good", True)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SETS)
def test_a_known_set_gives_the_right_records(name: str) -> None:
    form, values, expected = SETS[name]
    assert recognise(rows(*values)).name == form
    assert read(*values) == expected


@pytest.mark.parametrize("which", ["best_worst", "all"])
def test_pairs_of_a_ranking_are_the_extremes_or_all_whose_scores_differ(which: str) -> None:
    """Scores 5, 3, 3, 1: 5-3 twice, 5-1, and 3-1 twice; never 3 against 3."""
    made = read({"instruction": "q", "generations": ["c", "a", "b", "d"], "ratings": [3, 5, 3, 1]}, pairs=which)
    found = [(p.chosen, p.rejected, p.margin) for p in made]
    every = [("a", "c", 2), ("a", "b", 2), ("a", "d", 4), ("c", "d", 2), ("b", "d", 2)]
    assert found == (every if which == "all" else [("a", "d", 4)])


def test_of_equally_bad_answers_the_first_is_rejected() -> None:
    (made,) = read({"instruction": "q", "generations": ["c", "a", "b"], "ratings": [1, 5, 1]})
    assert (made.chosen, made.rejected) == ("a", "c")


def test_an_answer_that_nobody_rated_is_neither_good_nor_bad() -> None:
    (made,) = read({"instruction": "q", "generations": ["a", "b", "c"], "ratings": [5, None, 3]})
    assert (made.chosen, made.rejected, made.margin) == ("a", "c", 2)


def test_a_rejected_answer_with_the_higher_score_has_a_margin_below_0() -> None:
    """So the doctor can find it, and a loss with margins asks for less."""
    (made,) = read({"prompt": "q", "chosen": "good", "rejected": "bad", "score_chosen": 3.0, "score_rejected": 5.0})
    assert made == pair(margin=-2.0)


def test_a_tree_in_one_row_gives_the_pairs_of_its_ranked_replies() -> None:
    form = FORMATS["oasst_tree"]
    (made,) = read(form.example)
    assert (made.prompt, made.chosen, made.rejected) == (
        (Message("user", "A joke?"),),
        "Gladly. An owl walks in.",
        "No.",
    )


# -- columns that mean something ------------------------------------------------------------------------


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
    values = SETS["PKU-SafeRLHF"][1][0]
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


# -- messages -------------------------------------------------------------------------------------------


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
