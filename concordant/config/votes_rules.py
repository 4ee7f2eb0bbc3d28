"""The rules of ``concordant votes``: which keys act for which action, and what contradicts itself."""

from __future__ import annotations

from collections.abc import Callable

from concordant.config.names import NEEDS_SCORES
from concordant.config.rule_kinds import Contradiction, NoEffect, Values


def _other_than(*actions: str) -> Callable[[Values], bool]:
    return lambda v: v["action"] not in actions


def _is(*actions: str) -> Callable[[Values], bool]:
    return lambda v: v["action"] in actions


VOTES_NO_EFFECT = (
    NoEffect(
        ("data.test_fraction", "data.test_path", "data.test", "data.max_prompt_tokens", "data.max_response_tokens")
        + ("data.too_long", "data.template_args"),
        "all pairs of the data are taken, whatever their length",
    ),
    NoEffect(
        ("question", "instructions", "raters_per_pair", "gold_share", "lease", "data.", "answers", "policies", "gold"),
        "only import brings pairs in and makes an arena",
        _other_than("import"),
    ),
    NoEffect(
        ("order", "scores", "rewards", "seed"),
        "only import and rank put pairs in an order",
        _other_than("import", "rank"),
    ),
    NoEffect(("rater",), "only rater and retire name a rater", _other_than("rater", "retire")),
    NoEffect(("arena",), "a rater votes in every arena of the database", _is("rater", "retire")),
    NoEffect(("form", "keep_ties", "margin"), "only export writes votes", _other_than("export")),
    NoEffect(("output",), "only import and export write a file", _other_than("import", "export")),
    NoEffect(("json",), "only status prints numbers", _other_than("status")),
    NoEffect(("keep_ties", "margin"), "single votes are written as they are", lambda v: v["form"] == "votes"),
    NoEffect(
        ("scores", "rewards"),
        "only the orders close and disputed compare scores; set order",
        lambda v: v["order"] not in NEEDS_SCORES,
    ),
    NoEffect(("policies",), "they are the policies of --data, and there is none", lambda v: not v["data.path"]),
)

VOTES_CONTRADICTIONS = (
    Contradiction(
        ("action", "rater"),
        lambda v: v["action"] in ("rater", "retire") and not v["rater"],
        "give the rater's name, as --rater NAME",
    ),
    Contradiction(
        ("action", "output"),
        lambda v: v["action"] == "export" and not v["output"],
        "give the file to write, as --output pairs.jsonl",
    ),
    Contradiction(
        ("action", "data.path", "answers"),
        lambda v: v["action"] == "import" and not v["data.path"] and not v["answers"],
        "give pairs as --data FILE, or answers of policies as --answers NAME=FILE NAME=FILE",
    ),
    Contradiction(
        ("action", "order"),
        lambda v: v["action"] == "rank" and v["order"] == "given",
        "pairs have the given order already; give --order random, close or disputed",
    ),
    Contradiction(
        ("scores", "rewards"),
        lambda v: bool(v["scores"]) and bool(v["rewards"]),
        "both give the scores of the pairs; give one of them",
    ),
    Contradiction(
        ("order", "scores", "rewards"),
        lambda v: v["order"] in NEEDS_SCORES and not v["scores"] and not v["rewards"],
        "this order compares scores; give --scores FILE or --rewards MODEL …",
    ),
    Contradiction(
        ("order", "rewards"),
        lambda v: v["order"] == "disputed" and len(v["rewards"]) == 1,
        "one reward model cannot disagree with itself; give two or more, or order close",
    ),
    Contradiction(
        ("policies",),
        lambda v: len(v["policies"]) not in (0, 2),
        "give two names, the policy of `a` and the policy of `b`",
    ),
    Contradiction(
        ("gold", "answers"),
        lambda v: v["gold"] and bool(v["answers"]),
        "nobody knows which answer of two policies is better; give gold pairs as --data FILE",
    ),
)
