"""Typed access to a row's columns. The errors say what was found, what was expected, and the nearest name."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from concordant.core.errors import nearest
from concordant.data.dialogue import Messages
from concordant.data.json_text import parsed
from concordant.data.records import Message, Role
from concordant.data.rows import BadRow, Row, lone_surrogate, printable

MISSING, WRONG_TYPE, WRONG_ROLE = "missing column", "wrong type", "wrong role"
UNUSED = "a column that matters is not used"

ROLES: dict[str, Role] = {  # by the names that data sets use
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "prompter": "user",
    "developer": "system",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "function_call": "assistant",
}
THOUGHTS = ("reasoning_content", "thinking", "reasoning")  # keys of a message that hold its thought
DEEPEST = 32  # most levels of lists and objects in a value that is carried along
LEARNT_KEYS = ("weight", "train", "loss")  # keys of a message: with 0 or false, the message is not learnt
# The numbers 1 and 0 are found too, because they equal True and False.
LABELS = {True: True, False: False, "true": True, "false": False, "1": True, "0": False}


def kind(value: object) -> str:
    """The type of a value, in the words of JSON."""
    if value is None:
        return "null"
    names = {
        str: "a string",
        bool: "true or false",
        int: "a number",
        float: "a number",
        list: "a list",
        dict: "an object",
    }
    return names.get(type(value), type(value).__name__)


@lru_cache(maxsize=8192)
def likeness(known: str, column: str) -> float:
    """How alike two names of columns are, 0 to 1."""
    return difflib.SequenceMatcher(None, known, column[:100]).ratio()


def missing(row: Row, column: str, format_columns: Sequence[str], hint: str = "") -> BadRow:
    found = printable(", ".join(row.values)) or "no columns"
    return BadRow(
        MISSING,
        f'{row.where}: no "{column}" (found: {found}).{nearest(column, row.values)}\n'
        f"expected one of the formats in docs/data.md; closest: {' + '.join(format_columns)}{hint}",
    )


def wrong_type(row: Row, column: str, value: object, expected: str) -> BadRow:
    shown = "" if value is None else f" ({_shown(value)})"
    return BadRow(WRONG_TYPE, f'{row.where}: "{column}" must be {expected}, found {kind(value)}{shown}')


def _shown(value: object) -> str:
    try:
        return json.dumps(value, default=str)[:40]
    except (ValueError, TypeError, RecursionError):  # a key that is no string; nesting 10,000 deep
        return "…"


def text(row: Row, column: str) -> str:
    """The text in a string column; "" if the value is null or absent."""
    return as_text(row, column, row.values.get(column))


def as_text(row: Row, column: str, value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise wrong_type(row, column, value, "a string")
    if lone_surrogate(value) >= 0:
        raise BadRow(WRONG_TYPE, f'{row.where}: "{column}" is not valid Unicode (half of a surrogate pair)')
    return value


def number(row: Row, column: str, low: float = -math.inf, high: float = math.inf) -> float | None:
    """An optional number. A string (in a CSV) may hold the number; an empty string is None."""
    value = row.values.get(column)
    if value is None or value == "":
        return None
    try:
        found = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        found = math.nan
    if not (math.isfinite(found) and low <= found <= high):
        end = f"{high:g}]" if math.isfinite(high) else "∞)"
        expected = "a finite number" if math.isinf(low) else f"a number in [{low:g}, {end}"
        raise wrong_type(row, column, value, expected)
    return found


def as_number(row: Row, column: str, value: object) -> float:
    """A finite number; BadRow if it is missing."""
    inner = number(replace(row, values={column: value}), column)
    if inner is None:
        raise wrong_type(row, column, value, "a finite number")
    return inner


def label(row: Row, column: str) -> bool:
    return as_label(row, column, row.values.get(column))


def as_label(row: Row, column: str, value: object) -> bool:
    spelled = value.strip().lower() if isinstance(value, str) else value
    if not isinstance(spelled, str | int | float) or spelled not in LABELS:
        raise wrong_type(row, column, value, "true or false (or 1 or 0)")
    return LABELS[spelled]


def objects(row: Row, column: str, value: object, what: str = "a list") -> list[Any]:
    """A list. A CSV may hold the list as JSON text. Null gives the empty list."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = parsed(value)
        except (ValueError, RecursionError):
            raise wrong_type(row, column, value, f"{what} (as JSON text)") from None
    if value is None:
        return []
    if not isinstance(value, list):
        raise wrong_type(row, column, value, what)
    return value


def messages(row: Row, column: str, value: object) -> Messages:
    """The messages of a list of ``{"role", "content"}`` or ``{"from", "value"}``. A CSV may hold it as JSON text.

    Raises BadRow for a message that is not to be learnt (weight 0); ``weighted_messages`` reads such messages.
    """
    found, learnt = weighted_messages(row, column, value)
    if not all(learnt):
        raise BadRow(
            WRONG_TYPE, f'{row.where}: "{column}" has a message of weight 0, which only dialogues to imitate can have'
        )
    return found


def weighted_messages(row: Row, column: str, value: object) -> tuple[Messages, list[bool]]:
    """The messages, and for each whether it is to be learnt (``weight``, ``train`` or ``loss``; True without them)."""
    items = objects(row, column, value, "a list of messages")
    return tuple(message(row, column, item) for item in items), [_is_learnt(row, column, item) for item in items]


def _is_learnt(row: Row, column: str, item: dict[str, Any]) -> bool:
    for key in LEARNT_KEYS:
        weight = item.get(key)
        if weight is None:
            continue
        if not isinstance(weight, bool | int | float) or weight not in (0, 1):
            raise wrong_type(row, f"{column}.{key}", weight, "1 or 0 (other weights are not supported)")
        if not weight:
            return False
    return True


def message(row: Row, column: str, item: object) -> Message:
    expected = 'a message, {"role": …, "content": …} or {"from": …, "value": …}'
    if not isinstance(item, dict):
        raise wrong_type(row, column, item, expected)
    role_key, content_key = ("from", "value") if "from" in item else ("role", "content")
    calls = next((key for key in ("tool_calls", "function_call") if item.get(key)), None)
    if calls:
        raise BadRow(
            WRONG_TYPE,
            f'{row.where}: "{column}.{calls}" is not supported. Write the call into the message\'s content, '
            "as the model should write it",
        )
    if role_key not in item or content_key not in item:
        raise wrong_type(row, column, item, expected)
    role: Any = item[role_key]
    if not isinstance(role, str) or role.lower() not in ROLES:
        close = nearest(role, ROLES) if isinstance(role, str) else ""
        known = ", ".join(ROLES)
        raise BadRow(WRONG_ROLE, f'{row.where}: "{column}" has the role {role!r}.{close} Known roles: {known}')
    place = f"{column}.{content_key}"
    content = item[content_key]
    content = parts(row, place, content) if isinstance(content, list) else content
    if not isinstance(content, str):
        raise wrong_type(row, place, content, "a string")
    key = next((key for key in THOUGHTS if item.get(key)), THOUGHTS[0])
    thought = as_text(row, f"{column}.{key}", item.get(key))
    return Message(ROLES[role.lower()], as_text(row, place, content), thought)


def parts(row: Row, column: str, content: list[Any]) -> str:
    """The text of a content that is a list of parts, ``{"type": "text", "text": …}``."""
    texts = []
    for part in content:
        if isinstance(part, str):
            part = {"type": "text", "text": part}
        if not isinstance(part, dict) or part.get("type", "text") != "text" or not isinstance(part.get("text"), str):
            raise wrong_type(row, column, part, 'text or parts of text, {"type": "text", "text": …}')
        texts.append(part["text"])
    return "".join(texts)


def tools(row: Row) -> tuple[Any, ...] | None:
    """The ``tools`` column: a list of functions, which may be JSON text; None if there are no functions."""
    value = row.values.get("tools")
    if isinstance(value, str) and not value.strip():
        return None
    found = objects(row, "tools", value, "a list of functions")
    for tool in found:
        if not isinstance(tool, dict):
            raise wrong_type(row, "tools", tool, "a list of functions")
    check_value(row, "tools", found)
    return tuple(found) or None


def check_value(row: Row, column: str, value: object, depth: int = 0) -> None:
    """Raise BadRow for a carried value that the project's files cannot hold."""
    if depth > DEEPEST:
        raise BadRow(WRONG_TYPE, f'{row.where}: "{column}" is nested more than {DEEPEST} levels deep')
    if isinstance(value, str):
        as_text(row, column, value)
    elif isinstance(value, dict):
        for key, item in value.items():
            as_text(row, column, key)
            check_value(row, column, item, depth + 1)
    elif isinstance(value, list | tuple):
        for item in value:
            check_value(row, column, item, depth + 1)
