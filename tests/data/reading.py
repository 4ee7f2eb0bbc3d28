"""Rows of a file as records, or what is said where they are refused; messages and a pair to compare them with."""

from __future__ import annotations

from typing import Any

import pytest

from concordant.core.errors import UserError
from concordant.data.recognise import Reading, read_records
from concordant.data.records import Message, Pair
from concordant.data.rows import BadRows, Row


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
