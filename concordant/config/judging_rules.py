"""The rules of AI feedback: which keys act for which judge or critic, and what contradicts itself."""

from __future__ import annotations

from concordant.config.rule_kinds import Contradiction, NoEffect
from concordant.config.specs import is_address, is_reward_function, is_votes, may_answer_in_words


def _named_model(key: str) -> Contradiction:
    return Contradiction(
        (key, "endpoint.model"),
        lambda v: is_address(v[key]) and not v["endpoint.model"],
        "a server may have several models; give the name of one as --endpoint.model",
    )


def _no_server(key: str) -> NoEffect:
    return NoEffect(
        ("endpoint.",),
        f"no server is asked; only a {key} at https://HOST/v1 is one",
        lambda v: not is_address(v[key]),
    )


JUDGE_NO_EFFECT = (
    NoEffect(("data.test_fraction", "data.test_path"), "all records are judged, including the held-out ones"),
    NoEffect(
        ("data.max_prompt_tokens", "data.max_response_tokens", "data.too_long"),
        "answers of every length are judged",
    ),
    NoEffect(("model.name",), "--judge names the model"),
    _no_server("judge"),
    NoEffect(
        ("model.", "data.template_args"),
        "no model is loaded here; only a judge that is a model's folder or hub id is",
        lambda v: is_address(v["judge"]) or is_reward_function(v["judge"]),
    ),
    NoEffect(
        ("max_answer_tokens", "principles"),
        "a function gets the prompt and the answer, and returns a number; only a model reads a principle",
        lambda v: is_reward_function(v["judge"]),
    ),
    NoEffect(("seed",), "no principle is drawn; give --principles", lambda v: not v["principles"]),
)
JUDGE_CONTRADICTIONS = (
    Contradiction(
        ("judge", "ask"),
        lambda v: is_reward_function(v["judge"]) and v["ask"] == "scores",
        "a function gives one number and not two scores; use ask preference",
    ),
    _named_model("judge"),
    Contradiction(
        ("judge",),
        lambda v: v["judge"].startswith("rule:"),
        "a rule compares with a ground truth; use `concordant audit` or a function of your own",
    ),
)

COLLECT_NO_EFFECT = (
    NoEffect(
        ("unlabelled",),
        "only votes and a server can be waited for; give a FILE.jsonl of votes or https://HOST/v1 as judge",
        lambda v: not is_votes(v["judge"]) and not is_address(v["judge"]),
    ),
    _no_server("judge"),
    NoEffect(
        ("max_answer_tokens", "principles"),
        "this judge answers no question in words; only a server and a chat model do",
        lambda v: not may_answer_in_words(v["judge"]),
    ),
)
COLLECT_CONTRADICTIONS = (_named_model("judge"),)

CONSTITUTION_NO_EFFECT = (
    _no_server("critic"),
    NoEffect(
        ("max_answer_tokens",),
        "a function writes its revision itself; only a model or a server has a limit",
        lambda v: is_reward_function(v["critic"]),
    ),
)
CONSTITUTION_CONTRADICTIONS = (
    Contradiction(
        ("sampling.n",),
        lambda v: v["sampling.n"] != 1,
        "one answer to each prompt is revised; for pairs use `concordant generate` and `concordant judge`",
    ),
    _named_model("critic"),
)
