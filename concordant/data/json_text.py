"""Parses JSON of data files, and does not let a key that stands twice in one object lose a value in silence."""

from __future__ import annotations

import json
from typing import Any

from concordant.data.rows import printable


class JsonParser:
    """Parses JSON, and notes a key that stands twice in one object, of which Python would keep the last value alone."""

    def __init__(self) -> None:
        self._decoder = json.JSONDecoder(object_pairs_hook=self._object)
        self._twice: str | None = None

    def whole(self, text: str) -> Any:
        """The value that ``text`` is. Raises what ``json.loads`` raises."""
        self._twice = None
        return self._decoder.decode(text)

    def first(self, text: str, start: int) -> tuple[Any, int]:
        """The value that begins at ``start``, and where it ends."""
        self._twice = None
        return self._decoder.raw_decode(text, start)

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            names = [name for name, _ in pairs]
            self._twice = next(name for name in names if names.count(name) > 1)
        return values

    def problem(self) -> str:
        """What is wrong with the value that was parsed last, or ""."""
        return "" if self._twice is None else f'the key "{printable(self._twice)}" stands twice in one object'


def parsed(text: str) -> Any:
    """The value of a cell that holds JSON text. ValueError if it is malformed, or has a key twice in one object."""
    parser = JsonParser()
    value = parser.whole(text)
    if problem := parser.problem():
        raise ValueError(problem)
    return value
