"""Data sets that people have, each as a row or two of its own columns: the right pairs, and what the verdict means."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest

from concordant.core.errors import UserError
from concordant.data.dialogue import Drop
from concordant.data.formats import FORMATS
from concordant.data.recognise import recognise
from concordant.data.records import Demonstration, Message, Pair, Prompt, Rating
from tests.data.reading import bot, pair, read, rows, user

KINDS = {"pair": Pair, "pairs": Pair, "dialogue": Demonstration, "rated answer": Rating, "prompt": Prompt}


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


EXTREME = [10**400, -(10**400), 1e308, float("nan"), float("-inf"), "", None, [], {}, True, [[]], [{}], {"": 10**400}]


@pytest.mark.parametrize("name", FORMATS)
def test_an_extreme_value_in_any_column_is_read_or_refused_in_a_sentence(name: str) -> None:
    form = FORMATS[name]  # type: ignore[index]
    for column in form.example:
        for value in EXTREME:
            with suppress(UserError):
                read({**form.example, column: value}, *form.more, format=name)
