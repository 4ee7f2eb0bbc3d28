"""Typed access to a row's columns: what was found, what was expected, and the nearest name, said once and here."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from concordant.core.errors import nearest
from concordant.data.dialogue import Messages
from concordant.data.files import BadRow, Row, lone_surrogate
from concordant.data.records import Message, Role

MISSING, WRONG_TYPE, WRONG_ROLE = "missing column", "wrong type", "wrong role"

ROLES: dict[str, Role] = {  # as data sets spell them
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}
LABELS = {True: True, False: False, "true": True, "false": False, "1": True, "0": False}  # 1 and 0 equal the first two


def kind(value: object) -> str:
    """A value's type in words of JSON."""
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


def missing(row: Row, column: str, format_columns: Sequence[str], hint: str = "") -> BadRow:
    found = ", ".join(row.values) or "no columns"
    return BadRow(
        MISSING,
        f'{row.where}: no "{column}" (found: {found}).{nearest(column, row.values)}\n'
        f"expected one of the formats in docs/data.md; closest: {' + '.join(format_columns)}{hint}",
    )


def wrong_type(row: Row, column: str, value: object, expected: str) -> BadRow:
    shown = "" if value is None else f" ({json.dumps(value, default=str)[:40]})"
    return BadRow(WRONG_TYPE, f'{row.where}: "{column}" must be {expected}, found {kind(value)}{shown}')


def text(row: Row, column: str) -> str:
    """A string column; null and absent are empty."""
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
    """An optional number; CSV's strings count, an empty one is None."""
    value = row.values.get(column)
    if value is None or value == "":
        return None
    try:
        found = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        found = math.nan
    if not (math.isfinite(found) and low <= found <= high):
        expected = "a finite number" if math.isinf(low) else f"a number in [{low:g}, {high:g}]"
        raise wrong_type(row, column, value, expected)
    return found


def label(row: Row, column: str) -> bool:
    value = row.values.get(column)
    spelled = value.strip().lower() if isinstance(value, str) else value
    if not isinstance(spelled, str | int | float) or spelled not in LABELS:
        raise wrong_type(row, column, value, "true or false (or 1 or 0)")
    return LABELS[spelled]


def messages(row: Row, column: str, value: object) -> Messages:
    """A list of ``{"role", "content"}`` or ``{"from", "value"}``; in a CSV, that list as JSON text."""
    if isinstance(value, str) and value.startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise wrong_type(row, column, value, "a list of messages (as JSON text)") from None
    if value is None:
        return ()
    if not isinstance(value, list):
        raise wrong_type(row, column, value, "a list of messages")
    return tuple(message(row, column, item) for item in value)


def message(row: Row, column: str, item: object) -> Message:
    expected = 'a message, {"role": …, "content": …} or {"from": …, "value": …}'
    if not isinstance(item, dict):
        raise wrong_type(row, column, item, expected)
    role_key, content_key = ("from", "value") if "from" in item else ("role", "content")
    if role_key not in item or content_key not in item:
        raise wrong_type(row, column, item, expected)
    role: Any = item[role_key]
    if not isinstance(role, str) or role.lower() not in ROLES:
        close = nearest(role, ROLES) if isinstance(role, str) else ""
        known = ", ".join(ROLES)
        raise BadRow(WRONG_ROLE, f'{row.where}: "{column}" has the role {role!r}.{close} Known roles: {known}')
    if not isinstance(item[content_key], str):
        raise wrong_type(row, f"{column}.{content_key}", item[content_key], "a string")
    return Message(ROLES[role.lower()], as_text(row, f"{column}.{content_key}", item[content_key]))
