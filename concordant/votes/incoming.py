"""Pairs for an arena: from collect's to_label.jsonl, from any preference data, and from the answers of policies."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

from concordant.config.data import DataConfig
from concordant.config.names import PairOrder
from concordant.core.errors import UserError
from concordant.core.seeding import python_stream
from concordant.data.convert import pair_id
from concordant.data.records import Message, Pair
from concordant.data.splits import load_all
from concordant.votes.rows import NewPair

LABELLED = ("id", "prompt", "a", "b")  # the columns of to_label.jsonl
Scores = Mapping[str, tuple[list[float], list[float]]]  # by pair: one score for each member, of both answers


def read_pairs(data: DataConfig, gold: bool, policies: Sequence[str] = ()) -> list[NewPair]:
    """The pairs of a file of ``id, prompt, a, b`` or of preference data. Raises UserError.

    In preference data the chosen answer comes first. With ``gold`` it is the known answer; else its label is not used,
    and raters cannot see it, because every rater sees the answers in an order of their own. Rows of ``a`` and ``b`` may
    have ``policy_a``, ``policy_b`` and, with ``gold``, ``gold`` ("a" or "b").
    """
    names = (*policies, "", "")[:2]
    if _is_to_label(data.path):
        return [_to_label(row, where, gold, names) for row, where in _rows(data.path)]
    if policies:
        raise UserError("policies: only rows with `a` and `b` say which policy gave which answer")
    loaded = load_all(data.whole(), 0)
    found = [r for r in (*loaded.train, *loaded.test) if isinstance(r, Pair)]
    if not found:
        raise UserError(f"{data.path}: no pairs; expected two answers to each prompt, see docs/data.md")
    return [
        NewPair(
            key=pair_id(pair.prompt, pair.chosen, pair.rejected),
            prompt=pair.prompt,
            first=pair.chosen,
            second=pair.rejected,
            gold="first" if gold else None,
            tools=pair.tools,
        )
        for pair in found
    ]


def pairs_of_answers(files: Mapping[str, str]) -> list[NewPair]:
    """A pair of every two policies for each prompt that both answered, where the answers differ.

    ``files``: what ``concordant generate`` wrote, by the policy's name. Of several answers to a prompt the first is
    taken. If there is one policy, the first two unlike answers to each prompt make a pair.
    """
    answered = {name: _answers(path) for name, path in files.items()}
    found: list[NewPair] = []
    for prompt in dict.fromkeys(prompt for answers in answered.values() for prompt in answers):
        given = [(name, answers[prompt]) for name, answers in answered.items() if prompt in answers]
        if len(files) == 1:
            sides = [(name, response) for name, responses in given for response in responses[:2]]
        else:
            sides = [(name, responses[0]) for name, responses in given]
        for (one, first), (two, second) in combinations(sides, 2):
            if first.strip() != second.strip():
                key = pair_id(prompt, first, second)
                pair = NewPair(key=key, prompt=prompt, first=first, second=second)
                found.append(replace(pair, first_policy=one, second_policy=two))
    if not found:
        raise UserError("answers: no prompt has two unlike answers")
    return found


def _answers(path: str) -> dict[tuple[Message, ...], list[str]]:
    """The answers of a file of ``concordant generate`` to each prompt, without those that are equal but for spaces."""
    found: dict[tuple[Message, ...], dict[str, str]] = {}
    for row, where in _rows(path):
        response = row.get("response")
        if not isinstance(response, str):
            raise UserError(f"{where}: expected prompt and response, as `concordant generate` writes them")
        found.setdefault(_prompt(row, where), {}).setdefault(response.strip(), response)
    return {prompt: list(responses.values()) for prompt, responses in found.items()}


def in_order(pairs: Sequence[NewPair], order: PairOrder, scores: Scores, seed: int) -> list[NewPair]:
    """The pairs with the ranks that ``order`` gives them."""
    ranks = ranks_of([pair.key for pair in pairs], order, scores, seed)
    return [replace(pair, rank=ranks[pair.key]) for pair in pairs]


def ranks_of(keys: Sequence[str], order: PairOrder, scores: Scores, seed: int) -> dict[str, float]:
    """A rank for each pair; the lowest is asked about first. A pair without scores comes after those with scores.

    ``close``: |mean score of a - mean score of b|, because a label on a pair whose scores are far apart tells the
    reward model what it knows already. ``disputed``: less the standard deviation, over the members of an ensemble, of
    (score of a - score of b), which is the members' disagreement about the pair.
    """
    keys = list(dict.fromkeys(keys))
    if order == "given":
        return {key: float(i) for i, key in enumerate(keys)}
    if order == "random":
        shuffled = list(keys)
        python_stream(seed, "votes/rank").shuffle(shuffled)
        return {key: float(i) for i, key in enumerate(shuffled)}
    missing = sum(key not in scores for key in keys)
    if missing == len(keys):
        raise UserError(f"order {order}: no pair has a score; give --scores FILE or --rewards MODEL …")
    differences = {key: [a - b for a, b in zip(*scores[key], strict=True)] for key in keys if key in scores}
    if order == "disputed" and any(len(found) < 2 for found in differences.values()):
        raise UserError("order disputed: every pair needs scores of two or more members")
    if order == "close":
        value = {key: abs(statistics.fmean(found)) for key, found in differences.items()}
    else:
        value = {key: -statistics.pstdev(found) for key, found in differences.items()}
    last = max(value.values()) + 1
    return {key: value.get(key, last) for key in keys}


def read_scores(path: str) -> Scores:
    """The scores of a file with ``id``, ``score_a`` and ``score_b`` a line. Raises UserError."""
    found = {}
    for row, where in _rows(path):
        sides: list[Any] = [row.get(name) for name in ("score_a", "score_b")]
        members = [side if isinstance(side, list) else [side] for side in sides]
        numbers = all(isinstance(x, int | float) and abs(x) < 1e300 for side in members for x in side)
        if not (isinstance(row.get("id"), str) and numbers and len(members[0]) == len(members[1]) > 0):
            raise UserError(f"{where}: expected id, score_a and score_b: numbers, or lists of as many numbers")
        found[row["id"]] = ([float(x) for x in members[0]], [float(x) for x in members[1]])
    return found


def _is_to_label(path: str) -> bool:
    if not path.endswith(".jsonl") or not Path(path).expanduser().is_file():
        return False
    first = next(_rows(path), None)
    return first is not None and set(LABELLED) <= first[0].keys()


def _to_label(row: Mapping[str, Any], where: str, gold: bool, names: Sequence[str]) -> NewPair:
    if not all(isinstance(row.get(name), str) and row[name] for name in ("id", "a", "b")) or len(row["id"]) > 64:
        raise UserError(f"{where}: expected {', '.join(LABELLED)}, all texts but the prompt, and an id of 64 letters")
    if gold and row.get("gold") not in ("a", "b"):
        raise UserError(f'{where}: "gold" must be a or b, the better answer; given {json.dumps(row.get("gold"))[:40]}')
    if "gold" in row and not gold:
        raise UserError(f"{where}: the better answer is known; with --gold true these pairs test raters")
    one, two = (str(row.get(f"policy_{side}", name)) for side, name in zip("ab", names, strict=True))
    known = {"a": "first", "b": "second"}[row["gold"]] if gold else None
    return NewPair(
        key=row["id"],
        prompt=_prompt(row, where),
        first=row["a"],
        second=row["b"],
        first_policy=one,
        second_policy=two,
        gold=known,  # type: ignore[arg-type]
    )


def _prompt(row: Mapping[str, Any], where: str) -> tuple[Message, ...]:
    said = row.get("prompt")
    if isinstance(said, str) and said:
        return (Message("user", said),)
    try:
        found = tuple(Message(m["role"], m["content"], m.get("reasoning_content") or "") for m in said or ())
    except (TypeError, KeyError, AttributeError):
        found = ()
    texts = [text for m in found for text in (m.role, m.content, m.reasoning_content)]
    if not found or not all(isinstance(text, str) for text in texts):
        raise UserError(f"{where}: expected a prompt, as text or as a list of messages with role and content")
    return found


def _rows(path: str) -> Iterator[tuple[dict[str, Any], str]]:
    """The objects of a file of JSON lines, each with where it stands."""
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as problem:
        raise UserError(f"cannot read {path}: {getattr(problem, 'strerror', None) or 'no UTF-8 text'}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise UserError(f"{path} line {number}: expected one JSON object a line")
        yield row, f"{path} line {number}"
