"""Rows that hold two answers to one prompt and say which is better."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from typing import Any

from concordant.data import fields
from concordant.data.columns import ASKED, MARKS, WINNER
from concordant.data.dialogue import AS_MESSAGES, Drop, Messages, check_pair, is_hh, parse_hh, repeats, split_hh
from concordant.data.read_dialogues import (
    DIALOGUE_COLUMNS,
    PROMPT_COLUMNS,
    Found,
    answer_in,
    column_of,
    instruction_in,
    plain_answer,
    prompt_in,
)
from concordant.data.records import Message, Pair
from concordant.data.rows import Row
from concordant.data.strength import VOTES, share_of_votes

REJECTED_COLUMNS = ("rejected_response", "rejected_messages")


def pair(row: Row, prompt: Messages, chosen: str, rejected: str, strength: float | None = None) -> Found:
    """A pair; ``strength`` is the margin where the row has no ``margin`` of its own, and votes give a probability."""
    margin, probability = fields.number(row, "margin"), fields.number(row, "probability", 0, 1)
    votes = [fields.number(row, column, 0) for column in VOTES]
    if probability is None and any(vote is not None for vote in votes):
        probability = share_of_votes(*(vote or 0.0 for vote in votes))
    return check_pair(
        Pair(prompt, chosen, rejected, margin=strength if margin is None else margin, probability=probability)
    )


def by_preference(row: Row, prompt: Messages, first: str, second: str, preference: float, *, margin: bool) -> Found:
    """The pair of two answers; ``preference`` is above 0 for the first, below 0 for the second."""
    if preference == 0:
        return Drop.TIE
    chosen, rejected = (first, second) if preference > 0 else (second, first)
    return pair(row, prompt, chosen, rejected, abs(preference) if margin else None)


def _side(row: Row, column: str, prompt: Messages, prompt_column: str) -> tuple[Messages, str] | Drop:
    answer = answer_in(row, column, prompt, prompt_column)
    return answer if isinstance(answer, Drop) else (answer[0], plain_answer(row, column, answer[1]))


def two_answers(
    row: Row,
    prompt: Messages,
    prompt_column: str = "prompt",
    columns: tuple[str, str] = ("chosen", "rejected"),
    strength: float | None = None,
) -> Found:
    """Chosen and rejected answers, as text or messages; both must answer the same dialogue."""
    chosen, rejected = (_side(row, column, prompt, prompt_column) for column in columns)
    if isinstance(chosen, Drop):
        return chosen
    if isinstance(rejected, Drop):
        return rejected
    if chosen[0] != rejected[0]:
        return Drop.PROMPTS_DIFFER
    written = row.values.get(prompt_column)
    answers = chosen[1], rejected[1]
    plain = isinstance(written, str) and not written.startswith(AS_MESSAGES) and not is_hh(written)
    plain = plain and all(isinstance(row.values.get(column), str) for column in columns)
    if plain and all(repeats(str(written), answer) for answer in answers):
        written = str(written)
        answers = answers[0][len(written) :].strip(), answers[1][len(written) :].strip()
    return pair(row, chosen[0], *answers, strength)


def hh(row: Row) -> Found:
    """Both sides are whole dialogues: split at the final assistant turn; all before must agree, letter by letter."""
    chosen, rejected = split_hh(fields.text(row, "chosen")), split_hh(fields.text(row, "rejected"))
    if isinstance(chosen, Drop):
        return chosen
    if isinstance(rejected, Drop):
        return rejected
    if chosen[0] != rejected[0]:
        return Drop.PROMPTS_DIFFER
    return pair(row, parse_hh(chosen[0]), chosen[1], rejected[1])


def preference(row: Row) -> Found:
    """Two answers; a judge's ``rating`` of the two ``generations`` says how far apart they are, 0 for a tie."""
    column = column_of(row, (*PROMPT_COLUMNS, "input"))
    strength = _difference(row, "score_chosen", "score_rejected")
    if row.values.get("rating") is not None:
        strength = _rated_difference(row)
        if strength == 0:
            return Drop.TIE
    return two_answers(row, prompt_in(row, column), column, strength=strength)


def _difference(row: Row, better: str, worse: str) -> float | None:
    high, low = fields.number(row, better), fields.number(row, worse)
    return high - low if high is not None and low is not None else None


def _rated_difference(row: Row) -> float:
    texts = fields.objects(row, "generations", row.values.get("generations"))
    ratings = fields.objects(row, "rating", row.values["rating"], "the ratings of two generations")
    if len(texts) != 2 or len(ratings) != 2:
        raise fields.wrong_type(row, "rating", ratings, "the ratings of two generations")
    return abs(fields.as_number(row, "rating", ratings[0]) - fields.as_number(row, "rating", ratings[1]))


def implicit(row: Row) -> Found:
    return two_answers(row, (), strength=_difference(row, "score_chosen", "score_rejected"))


def shared_start(chosen: str, rejected: str) -> str:
    """The words that both texts begin with, whole words only."""
    start = os.path.commonprefix([chosen, rejected])
    whole = all(len(text) == len(start) or text[len(start)].isspace() for text in (chosen, rejected))
    if not whole:
        start = start[: max((i for i, c in enumerate(start) if c.isspace()), default=0)]
    return start.rstrip()


def implicit_text(row: Row) -> Found:
    """Two plain texts that begin alike: what they share is the prompt."""
    chosen, rejected = fields.text(row, "chosen"), fields.text(row, "rejected")
    start = shared_start(chosen, rejected)
    if not start.strip():
        return Drop.PROMPTS_DIFFER
    prompt = (Message("user", start.strip()),)
    return pair(row, prompt, chosen[len(start) :].strip(), rejected[len(start) :].strip())


def alpaca_preference(row: Row) -> Found:
    columns = column_of(row, ("chosen", "chosen_response")), column_of(row, ("rejected", "rejected_response"))
    strength = _difference(row, "chosen_avg_rating", "rejected_avg_rating")
    return two_answers(row, instruction_in(row), "", columns, strength)


def sharegpt_preference(row: Row) -> Found:
    column = column_of(row, DIALOGUE_COLUMNS)
    return two_answers(row, fields.messages(row, column, row.values.get(column)), column)


def swift_preference(row: Row) -> Found:
    """The last message is the chosen answer; the rejected one stands apart, as text or as its whole dialogue."""
    messages = fields.messages(row, "messages", row.values.get("messages"))
    if not messages or messages[-1].role != "assistant":
        return Drop.RUNS_ON if any(m.role == "assistant" for m in messages) else Drop.NO_RESPONSE
    column = column_of(row, REJECTED_COLUMNS)
    value = row.values.get(column)
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        made = [pair(row, messages[:-1], messages[-1].content, fields.as_text(row, column, item)) for item in value]
        kept = [found for found in made if isinstance(found, Pair)]
        return list(kept) if kept else made[0]
    rejected = _side(row, column, messages[:-1], "")
    if isinstance(rejected, Drop):
        return rejected
    if rejected[0] != messages[:-1]:
        return Drop.PROMPTS_DIFFER
    return pair(row, messages[:-1], plain_answer(row, "messages", messages[-1]), rejected[1])


def openai_preference(row: Row) -> Found:
    given = row.values.get("input")
    if not isinstance(given, dict) or "messages" not in given:
        raise fields.wrong_type(row, "input", given, 'an object with "messages"')
    prompt = fields.messages(row, "input.messages", given["messages"])
    found = two_answers(row, prompt, "", ("preferred_output", "non_preferred_output"))
    return with_tools(row, found, given.get("tools"))


def with_tools(row: Row, found: Found, tools: Any) -> Found:
    """The tools of OpenAI's rows stand inside ``input``."""
    inner = Row(file=row.file, unit=row.unit, number=row.number, values={"tools": tools})
    return replace(found, tools=fields.tools(inner)) if isinstance(found, Pair) else found


# -- two numbered answers and a verdict -----------------------------------------------------------------


def _verdict(row: Row, column: str, low: float, high: float) -> float:
    value = fields.number(row, column, low, high)
    if value is None:
        raise fields.wrong_type(row, column, row.values.get(column), f"a number in [{low:g}, {high:g}]")
    return value


def pku_saferlhf(row: Row) -> Found:
    """``better_response_id`` is the number of the more helpful answer."""
    better = _verdict(row, "better_response_id", -1, 1)
    sign = 1.0 if better == 0 else -1.0 if better == 1 else 0.0
    first, second = fields.text(row, "response_0"), fields.text(row, "response_1")
    return by_preference(row, prompt_in(row), first, second, sign, margin=False)


def helpsteer2_preference(row: Row) -> Found:
    """A strength below 0 prefers the first response."""
    answers = fields.text(row, "response_1"), fields.text(row, "response_2")
    return by_preference(row, prompt_in(row), *answers, -_verdict(row, "preference_strength", -3, 3), margin=True)


def helpsteer3(row: Row) -> Found:
    """A preference below 0 is for the first response."""
    answers = fields.text(row, "response1"), fields.text(row, "response2")
    prompt = prompt_in(row, "context")
    return by_preference(row, prompt, *answers, -_verdict(row, "overall_preference", -3, 3), margin=True)


def shp(row: Row) -> Found:
    """``labels`` is 1 where answer A is preferred."""
    first = fields.label(row, "labels")
    answers = fields.text(row, "human_ref_A"), fields.text(row, "human_ref_B")
    return by_preference(row, prompt_in(row, "history"), *answers, 1.0 if first else -1.0, margin=False)


def webgpt(row: Row) -> Found:
    """Two answers with a score each, above 0 for the better; the margin is the difference."""
    question = row.values.get("question")
    asked = question.get("full_text") if isinstance(question, dict) else question
    prompt = (Message("user", fields.as_text(row, "question", asked)),)
    lead = _verdict(row, "score_0", -1e9, 1e9) - _verdict(row, "score_1", -1e9, 1e9)
    return by_preference(row, prompt, fields.text(row, "answer_0"), fields.text(row, "answer_1"), lead, margin=True)


def summaries(row: Row) -> Found:
    """A post and two summaries; ``choice`` is the number of the better."""
    info = row.values.get("info")
    if not isinstance(info, dict):
        raise fields.wrong_type(row, "info", info, "an object with the post")
    post = fields.as_text(row, "info.post", info.get("post") or info.get("article"))
    head = [f"{name}: {info[key]}" for name, key in (("SUBREDDIT", "subreddit"), ("TITLE", "title")) if info.get(key)]
    asked = "\n\n".join([*head, f"POST: {post}", "TL;DR:"]) if post.strip() else ""
    texts = []
    for item in fields.objects(row, "summaries", row.values.get("summaries")):
        if not isinstance(item, dict):
            raise fields.wrong_type(row, "summaries", item, 'an object with "text"')
        texts.append(fields.as_text(row, "summaries.text", item.get("text")).strip())
    if len(texts) != 2:
        raise fields.wrong_type(row, "summaries", texts, "a list of two summaries")
    prompt = (Message("user", fields.as_text(row, "info", asked)),)
    sign = 1.0 if not fields.label(row, "choice") else -1.0
    return by_preference(row, prompt, texts[0], texts[1], sign, margin=False)


def _alternate(row: Row, column: str) -> list[str]:
    """The arena's turns: a JSON list of texts; null stands for an answer that was withheld."""
    value = row.values.get(column)
    if isinstance(value, str) and not value.lstrip().startswith("["):
        return [fields.as_text(row, column, value)]
    return [fields.as_text(row, column, item) for item in fields.objects(row, column, value, "a list of texts")]


def arena_55k(row: Row) -> Found:
    """Battles of two models over one or more turns, which one of them won. The last turn is the pair."""
    asked, first, second = (_alternate(row, column) for column in ("prompt", "response_a", "response_b"))
    winners = [fields.label(row, f"winner_{who}") for who in ("model_a", "model_b")]
    if not len(asked) == len(first) == len(second):
        return Drop.PROMPTS_DIFFER
    sides = []
    for answers in (first, second):
        turns = [m for q, a in zip(asked, answers, strict=True) for m in (Message("user", q), Message("assistant", a))]
        sides.append(tuple(turns))
    return battle(row, sides[0], sides[1], float(winners[0]) - float(winners[1]))


def arena_33k(row: Row) -> Found:
    """Battles as two whole conversations; a tie is of no use."""
    sides = [fields.messages(row, f"conversation_{side}", row.values.get(f"conversation_{side}")) for side in "ab"]
    winner = fields.text(row, "winner").lower()
    if winner not in ("model_a", "model_b", "both_bad") and not winner.startswith("tie"):
        raise fields.wrong_type(row, "winner", winner, "model_a, model_b or tie")
    return battle(row, sides[0], sides[1], {"model_a": 1.0, "model_b": -1.0}.get(winner, 0.0))


def battle(row: Row, first: Messages, second: Messages, preference: float) -> Found:
    if not first or not second or first[-1].role != "assistant" or second[-1].role != "assistant":
        return Drop.NO_RESPONSE
    if first[:-1] != second[:-1]:
        return Drop.TIE if preference == 0 else Drop.PROMPTS_DIFFER
    return by_preference(row, first[:-1], first[-1].content, second[-1].content, preference, margin=False)


def argilla(row: Row) -> Found:
    """An Argilla 2 record: its fields, and the answer to a question that names the better of two fields."""
    given = row.values.get("fields")
    if not isinstance(given, dict):
        raise fields.wrong_type(row, "fields", given, "an object with a prompt and two answers")
    asked = next((name for name in (*PROMPT_COLUMNS, "instruction", "input") if given.get(name)), None)
    answers = [name for name, value in given.items() if name != asked and isinstance(value, str) and value]
    if asked is None or len(answers) != 2:
        raise fields.wrong_type(row, "fields", given, "a prompt and two answers")
    inner = Row(file=row.file, unit=row.unit, number=row.number, values=given)
    votes = [vote for column in ("responses", "suggestions") for vote in _argilla_votes(row, column)]
    chosen = next((vote for vote in votes if vote in answers), None)
    if chosen is None:
        return Drop.TIE
    first, second = (fields.text(inner, name) for name in answers)
    sign = 1.0 if chosen == answers[0] else -1.0
    return by_preference(row, prompt_in(inner, asked), first, second, sign, margin=False)


def _argilla_votes(row: Row, column: str) -> list[Any]:
    """Values of all questions: ``{question: [{"value": …}]}`` for responses, ``{question: {"value": …}}`` suggested."""
    value = row.values.get(column)
    answers = list(value.values()) if isinstance(value, dict) else []
    items = [item for answer in answers for item in (answer if isinstance(answer, list) else [answer])]
    return [item.get("value") for item in items if isinstance(item, dict)]


# Names of the first and of the second answer. Which of them a row has says how its answers are counted.
_STEMS = ("answer", "response")
_NAMES = tuple("|".join(f"{stem}_{marks[i]}" for stem in _STEMS for marks in MARKS) for i in (0, 1))
TWO_ANSWERS = ("|".join(ASKED), *_NAMES, "|".join(WINNER))


def side_by_side(row: Row) -> Found:
    """Two answers, and a winner that names the better one: a or b, a column, or a number as the columns are counted."""
    sides = [(f"{stem}_{one}", f"{stem}_{two}", one, two) for stem in _STEMS for one, two in MARKS]
    found = next((side for side in sides if side[0] in row.values and side[1] in row.values), None)
    if found is None:
        there = next(name for name in row.values if any(name in side[:2] for side in sides))
        other = next(b if a == there else a for a, b, _, _ in sides if there in (a, b))
        raise fields.missing(row, other, ("prompt", there, other, "winner"))
    first, second, _, _ = found
    better = _named_side(row, *found)
    prompt = prompt_in(row, column_of(row, ASKED))
    return by_preference(row, prompt, fields.text(row, first), fields.text(row, second), better, margin=False)


def _named_side(row: Row, first: str, second: str, one: str, two: str) -> float:
    """1 for the first answer, -1 for the second, 0 for a tie."""
    column = column_of(row, WINNER)
    value = row.values.get(column)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    said = str(value).strip().lower().removesuffix(".0" if is_number else "")
    if said.startswith("tie") or said in ("both", "equal", "neither"):
        return 0.0
    match = re.fullmatch(rf"(?:.*[_ ]|answer|response|model)?({one}|{two})", said)
    if match is None or not (is_number or isinstance(value, str)):
        hint = ""
        if said in ("0", "1", "2") and one == "a":
            hint = (
                f" (where 0 is the first: --data.columns answer_0={first},answer_1={second}; where 1 is the first: "
                f"--data.columns answer_1={first},answer_2={second})"
            )
        raise fields.wrong_type(row, column, value, f"{one}, {two} or tie, or the name of the better column{hint}")
    return 1.0 if match[1] == one else -1.0
