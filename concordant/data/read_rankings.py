"""Rows that hold several answers with ranks or scores, or one scored answer of several in the file.

All of them become rankings, and ``pairs_of`` makes the pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from concordant.config.names import RankedPairs
from concordant.data import fields
from concordant.data.dialogue import Drop, Messages, check_demonstration, check_pair
from concordant.data.read_dialogues import Found, column_of, instruction_in, prompt_in
from concordant.data.records import Demonstration, Message, Pair, Record
from concordant.data.rows import BadRow, BadRows, Row

SCORES = ("helpfulness", "score", "rating", "overall_score", "quality")
COMPLETION_SCORES = ("fine-grained_score", "overall_score", "score", "rating")


@dataclass(frozen=True, slots=True)
class Ranking:
    """Answers to one prompt, each with its score; a greater score is better."""

    prompt: Messages
    answers: list[tuple[str, float]]
    is_scale: bool  # differences of scores say how much better: they become margins


def pairs_of(ranking: Ranking, which: RankedPairs) -> list[Pair] | Drop:
    """Pairs of a better and a worse answer: of the best and the worst, or of all whose scores differ.

    Of equal scores the first answer stands for all where only one is wanted.
    """
    if len(ranking.answers) < 2:
        return Drop.ONE_RESPONSE
    ordered = sorted(ranking.answers, key=lambda answer: -answer[1])  # a stable sort: ties keep the row's order
    if ordered[0][1] == ordered[-1][1]:
        return Drop.TIE
    worst = next(answer for answer in ordered if answer[1] == ordered[-1][1])
    chosen = [(ordered[0], worst)] if which == "best_worst" else combinations(ordered, 2)
    found = [
        check_pair(Pair(ranking.prompt, better, worse, margin=high - low if ranking.is_scale else None))
        for (better, high), (worse, low) in chosen
        if high > low
    ]
    pairs = [pair for pair in found if isinstance(pair, Pair)]
    return pairs or next(drop for drop in found if isinstance(drop, Drop))


def nectar(row: Row) -> Ranking:
    """Rank 1 is the best answer."""
    answers = []
    for item in fields.objects(row, "answers", row.values.get("answers")):
        text, rank = _item(row, "answers", item, ("answer",), ("rank",))
        answers.append((text, -rank))
    return Ranking(prompt_in(row), answers, is_scale=False)


def ultrafeedback(row: Row) -> Ranking:
    answers = [
        _item(row, "completions", item, ("response",), COMPLETION_SCORES)
        for item in fields.objects(row, "completions", row.values.get("completions"))
    ]
    return Ranking(instruction_in(row), answers, is_scale=True)


def distilabel_ratings(row: Row) -> Ranking:
    """Texts and their ratings side by side; an answer whose rating is null is left out."""
    texts = fields.objects(row, "generations", row.values.get("generations"))
    ratings = fields.objects(row, "ratings", row.values.get("ratings"))
    if len(texts) != len(ratings):
        raise fields.wrong_type(row, "ratings", ratings, f"a list of {len(texts)}, one for each of the generations")
    answers = [
        (fields.as_text(row, "generations", text).strip(), fields.as_number(row, "ratings", rating))
        for text, rating in zip(texts, ratings, strict=True)
        if rating is not None
    ]
    prompt = instruction_in(row) if "instruction" in row.values else prompt_in(row, column_of(row, ("prompt", "input")))
    return Ranking(prompt, answers, is_scale=True)


def _item(row: Row, column: str, item: object, texts: Sequence[str], scores: Sequence[str]) -> tuple[str, float]:
    if not isinstance(item, dict):
        raise fields.wrong_type(row, column, item, f'objects with "{texts[0]}" and "{scores[0]}"')
    text = next((item[name] for name in texts if item.get(name) is not None), None)
    score = next((name for name in scores if item.get(name) is not None), scores[0])
    return (
        fields.as_text(row, f"{column}.{texts[0]}", text).strip(),
        fields.as_number(row, f"{column}.{score}", item.get(score)),
    )


# -- rows that belong together ------------------------------------------------------------------------


def scored(row: Row) -> Ranking:
    """One answer with its score: the rows of one prompt together are a ranking."""
    score = fields.as_number(row, column_of(row, SCORES), row.values.get(column_of(row, SCORES)))
    if "instruction" in row.values:
        prompt = instruction_in(row)
    else:
        prompt = prompt_in(row, column_of(row, ("prompt", "question")))
    answer = fields.text(row, column_of(row, ("response", "completion", "output", "generation")))
    return Ranking(prompt, [(answer, score)], is_scale=True)


def scored_together(rows: Sequence[Row], bad: BadRows, which: RankedPairs) -> list[tuple[Row, Found]]:
    """The pairs of every prompt, beside the first row of it that is of use; each other row beside its fate."""
    groups: dict[Messages, list[tuple[Row, tuple[str, float]]]] = {}
    for row in rows:
        try:
            ranking = scored(row)
        except BadRow as error:
            bad.report(error.reason, str(error))
            continue
        groups.setdefault(ranking.prompt, []).append((row, ranking.answers[0]))
    found: list[tuple[Row, Found]] = []
    for prompt, members in groups.items():
        pairs = pairs_of(Ranking(prompt, [answer for _, answer in members], is_scale=True), which)
        if isinstance(pairs, Drop):
            found += [(row, pairs) for row, _ in members]
            continue
        texts = {text for pair in pairs for text in (pair.chosen, pair.rejected)}
        records: list[Record] = list(pairs)
        for row, (text, _) in members:
            found.append((row, records if text in texts else Drop.OTHER_BRANCH))
            records = [] if text in texts else records
    return found


def oasst(rows: Sequence[Row], bad: BadRows, which: RankedPairs) -> list[tuple[Row, Found]]:
    """Message trees written as one message a row: ranked siblings are pairs, other last answers dialogues."""
    nodes: dict[str, Row] = {}
    for row in rows:
        try:
            name, _ = fields.text(row, "message_id"), fields.text(row, "parent_id")
            _, _ = _oasst_message(row), fields.number(row, "rank")
            if not name or name in nodes:
                raise fields.wrong_type(row, "message_id", name, "a name that no other row has")
        except BadRow as error:
            bad.report(error.reason, str(error))
            continue
        nodes[name] = row
    children: dict[str, list[str]] = {}
    for name, row in nodes.items():
        children.setdefault(fields.text(row, "parent_id"), []).append(name)
    made: dict[str, list[Record]] = {}
    used: set[str] = set()
    for parent, names in children.items():
        path = _path(nodes, parent) if parent else ([], True)
        answers = [name for name in names if _oasst_message(nodes[name]).role == "assistant"]
        if not answers or not parent or not path[1]:
            continue
        before = tuple(_oasst_message(nodes[name]) for name in path[0])
        ranked = [name for name in answers if nodes[name].values.get("rank") is not None]
        ranking = Ranking(
            before,
            [(_oasst_message(nodes[n]).content, -(fields.number(nodes[n], "rank") or 0.0)) for n in ranked],
            is_scale=False,
        )
        pairs = pairs_of(ranking, which)
        if not isinstance(pairs, Drop):
            texts = {text for pair in pairs for text in (pair.chosen, pair.rejected)}
            members = [name for name in ranked if _oasst_message(nodes[name]).content in texts]
            made.setdefault(members[0], []).extend(pairs)
            used.update(members, path[0])
            continue
        for name in answers:
            if name in children:
                continue
            whole = Demonstration((*before, _oasst_message(nodes[name])), len(before))
            kept = check_demonstration(whole)
            if not isinstance(kept, Drop):
                made.setdefault(name, []).append(kept)
                used.update([name, *path[0]])
    return [(row, made.get(name, []) if name in used else Drop.OTHER_BRANCH) for name, row in nodes.items()]


def _oasst_message(row: Row) -> Message:
    return fields.message(row, "role", {"role": row.values.get("role"), "content": row.values.get("text")})


def _path(nodes: dict[str, Row], name: str) -> tuple[list[str], bool]:
    """Names from the root down to ``name``, and whether the root was reached (a broken tree has no root)."""
    path: list[str] = []
    while name:
        if name not in nodes or name in path:
            return [], False
        path.append(name)
        name = fields.text(nodes[name], "parent_id")
    return path[::-1], True


def oasst_tree(row: Row) -> list[Ranking | Record] | Drop:
    """A message tree in one row: ``prompt`` with ``replies``, and theirs."""
    found: list[Ranking | Record] = []
    root = row.values.get("prompt")
    stack: list[tuple[Messages, object]] = [((), root)]
    while stack:
        before, node = stack.pop()
        if not isinstance(node, dict):
            raise fields.wrong_type(row, "prompt", node, 'a message with "text", "role" and "replies"')
        message = fields.message(row, "prompt", {"role": node.get("role"), "content": node.get("text")})
        path = (*before, message)
        replies = fields.objects(row, "prompt.replies", node.get("replies"))
        stack += [(path, reply) for reply in reversed(replies)]
        spoken = [r for r in replies if isinstance(r, dict) and r.get("role") == "assistant"]
        ranked = [r for r in spoken if r.get("rank") is not None]
        if len(ranked) > 1:
            answers = [_item(row, "prompt.replies", r, ("text",), ("rank",)) for r in ranked]
            found.append(Ranking(path, [(text, -rank) for text, rank in answers], is_scale=False))
            continue
        for reply in spoken:
            if not reply.get("replies"):
                text = fields.as_text(row, "prompt.replies.text", reply.get("text"))
                whole = check_demonstration(Demonstration((*path, Message("assistant", text)), len(path)))
                found += [] if isinstance(whole, Drop) else [whole]
    return found or Drop.NO_RESPONSE
