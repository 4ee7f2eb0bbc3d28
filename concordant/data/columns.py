"""The columns of the input: the names that --data.columns gives them, and the columns that must not be passed over.

An error names every option whole, so that it can be copied: with what the user gave already.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from concordant.core.errors import UserError, nearest
from concordant.core.visible import visible
from concordant.data import fields
from concordant.data.rows import BadRow, Row

IGNORE = "ignore"  # the name that --data.columns gives to a column that is to be left alone
OPTION = "--data.columns"
NEAR = 0.8  # difflib similarity above which an unknown column is taken for a slip of the pen

# Columns that change what is learnt: where a file's format does not use one, nobody may be left to find out later.
# Verdicts on an answer, and thoughts before it, mean nothing beside a prompt alone: there a reward function reads them.
OF_ANSWERS = {
    "weight", "train", "label", "labels", "kto_tag", "helpfulness", "rating", "ratings", "score", "overall_score",
    "quality", "reward", "grade", "vote", "votes", "verdict", "correct", "is_correct", "rank", "preference",
    "preferred", "overall_preference", "preference_strength", "winner", "winner_model_a", "better_response_id",
    "reasoning", "thinking", "thought",
}  # fmt: skip
CONTEXT = {"system", "system_prompt", "tools", "reasoning_content"}  # recognised also where they are misspelt
MEANINGFUL = OF_ANSWERS | CONTEXT | {
    "system_message", "system_instruction", "functions", "function_call", "tool_calls", "context", "history",
    "rejected_response", "rejected_messages", "role", "parent_id", "images", "image", "audios", "videos",
}  # fmt: skip

# Two answers side by side: a word for an answer, and which of the two it is.
_STEMS = "answer|response|completion|output|reply|generation|summary|candidate|text"
_SIDES = re.compile(rf"(?P<stem>{_STEMS})_?(?P<mark>\w)")
MARKS = (("a", "b"), ("0", "1"), ("1", "2"))
ASKED, WINNER = ("prompt", "question", "query", "instruction"), ("winner", "preferred", "preference")  # known names
_PERHAPS = ("better", "best", "choice", "chosen", "verdict", "label", "labels")  # names that may say who wins


def column_names(mappings: Sequence[str]) -> dict[str, str]:
    """``["prompt=question,system=sys"]`` as ``{"question": "prompt", "sys": "system"}``."""
    names: dict[str, str] = {}
    for part in (part.strip() for mapping in mappings for part in mapping.split(",")):
        ours, equals, theirs = part.partition("=")
        if not (ours and equals and theirs):
            raise UserError(f'data.columns: "{part}" is not NAME=COLUMN, e.g. prompt=question')
        if theirs in names or (ours in names.values() and ours != IGNORE):
            raise UserError(f'data.columns: "{theirs if theirs in names else ours}" stands twice')
        names[theirs] = ours
    return names


def option(given: Mapping[str, str], *more: tuple[str, str]) -> str:
    """``--data.columns`` with the names that were given already and ``more``, each (our name, the column's name)."""
    pairs = [(ours, theirs) for theirs, ours in given.items() if (ours, theirs) not in more]
    return f"{OPTION} " + shlex.quote(visible(",".join(f"{ours}={theirs}" for ours, theirs in (*pairs, *more))))


def renamed(row: Row, names: Mapping[str, str]) -> Row:
    """The row under the names that --data.columns gives; a column that loses its name to another is left out."""
    if not names:
        return row
    taken = set(names.values())
    kept = {name: value for name, value in row.values.items() if name not in names and name not in taken}
    given = {ours: row.values[theirs] for theirs, ours in names.items() if theirs in row.values and ours != IGNORE}
    return replace(row, values=given | kept)


def displaced(names: Mapping[str, str], seen: Iterable[str]) -> set[str]:
    """Columns of the files that lose their name to another one and are not read."""
    return {name for name in seen if name in names.values() and name not in names}


def check_mapped(names: Mapping[str, str], seen: set[str]) -> None:
    """Raise UserError for a column that --data.columns names and that no row has."""
    for theirs in names:
        if theirs not in seen:
            raise UserError(f'data.columns: no column "{theirs}" in the data.{nearest(theirs, seen)}')


def refuse_unused(row: Row, read: frozenset[str], is_prompt: bool, reads_as: str, given: Mapping[str, str]) -> None:
    """Raise BadRow for columns of the row that can change what is learnt and are not among those that are ``read``.

    Capitals, spaces and hyphens make no other name, and a misspelt system message is one too.
    """
    found = {
        name: meant
        for name, value in row.values.items()
        if name not in read and not _is_empty(value) and (meant := _meant(name, is_prompt))
    }
    if not found:
        return
    names = " and ".join(f'"{visible(name)}"' for name in found)
    several = len(found) > 1
    ways = option(given, *((IGNORE, name) for name in found))
    readable = [(meant, name) for name, meant in found.items() if meant in read and meant not in row.values]
    other = option(given, *(readable or [("NAME", next(iter(found)))]))
    raise BadRow(
        fields.UNUSED,
        f"{row.where}: the column{'s' if several else ''} {names} can change what is learnt, and data read as "
        f"{reads_as} {'do' if several else 'does'} not use {'them' if several else 'it'}.\n"
        f"To leave {'them' if several else 'it'} alone: {ways}; to read {'one' if several else 'it'} as another "
        f"column: {other}; formats: docs/data.md",
    )


@lru_cache(maxsize=8192)
def _meant(name: str, is_prompt: bool) -> str:
    """The meaningful name that ``name`` stands for, or ''."""
    plain = folded(name)
    if plain in MEANINGFUL:
        return "" if is_prompt and plain in OF_ANSWERS else plain
    near = max(sorted(CONTEXT), key=lambda known: fields.likeness(known, plain))
    return near if fields.likeness(near, plain) >= NEAR else ""


def refuse_two(row: Row, alternatives: Sequence[Sequence[str]], given: Mapping[str, str]) -> None:
    """Raise BadRow where a row fills two columns of which a format reads one, and they differ."""
    for names in alternatives:
        filled = [name for name in names if not _is_empty(row.values.get(name))]
        others = [name for name in filled[1:] if row.values[name] != row.values[filled[0]]]
        if others:
            ways = [option(given, (IGNORE, name)) for name in (others[0], filled[0])]
            raise BadRow(
                fields.UNUSED,
                f'{row.where}: "{filled[0]}" and "{others[0]}" can both be the {names[0]}, and they differ.\n'
                f'To read "{filled[0]}": {ways[0]}; to read "{others[0]}": {ways[1]}',
            )


def side_by_side(row: Row, given: Mapping[str, str]) -> str:
    """What to do with two answers in columns such as ``completion_1`` and ``completion_2``; '' where there are none.

    Three and more of one kind are choices, not a pair.
    """
    stems: dict[str, dict[str, str]] = {}
    for name, value in row.values.items():
        match = _SIDES.fullmatch(folded(name))
        if match and isinstance(value, str):
            stems.setdefault(match["stem"], {})[match["mark"]] = name
    found = next((sides for sides in stems.values() if tuple(sorted(sides)) in MARKS), None)
    if found is None:
        return ""
    others = {folded(name): name for name in row.values if name not in found.values()}
    first, second = sorted(found)
    wanted = [(f"answer_{mark}", found[mark]) for mark in (first, second)]
    absent = []
    for ours, known, what in (("prompt", ASKED, "the prompt"), ("winner", WINNER, "a verdict")):
        if not any(name in row.values for name in known):
            perhaps = _PERHAPS if ours == "winner" else ()
            name = next((others[name] for name in (*known, *perhaps) if name in others), "")
            wanted.append((ours, name or "COLUMN"))
            absent += [] if name else [what]
    names = " and ".join(f'"{visible(found[mark])}"' for mark in (first, second))
    return (
        f"{names} look like two answers to one prompt"
        + (f"; there is no column with a known name for {' or '.join(absent)}" if absent else "")
        + f".\nTo read them as a pair: {option(given, *((o, t) for o, t in wanted if o != t))}, where winner is "
        f"{first}, {second} or tie, or the name of the better column (docs/data.md, two_answers)"
    )


def _is_empty(value: Any) -> bool:
    return value is None or value == "" or value == []


def folded(name: str) -> str:
    return re.sub(r"[\s-]+", "_", name.strip().lower())
