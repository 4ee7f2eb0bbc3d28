"""A row of a file and its place, and what happens to rows that cannot be used."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

from concordant.core.errors import UserError

TRUNCATED, TOO_LARGE, UNREADABLE = "unreadable rest of a file", "row too large", "values that cannot be read"
LONGEST_ROW = 1 << 26  # most bytes of one unpacked row, because a small file may hold a row of many GB


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    file: str
    unit: Literal["line", "row"]
    number: int  # from 1
    values: dict[str, Any]

    @property
    def where(self) -> str:
        return f"{self.file} {self.unit} {self.number}"


class BadRow(UserError):
    """One row that cannot be used; ``reason`` is what it is counted under when bad rows are skipped."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class BadRows:
    """What to do with bad rows: stop at the first (the default), or count them by reason and go on."""

    def __init__(self, skip: bool) -> None:
        self.skip = skip
        self.counts: Counter[str] = Counter()

    def report(self, reason: str, message: str) -> None:
        if not self.skip:
            raise UserError(f"{message}\n--data.skip_bad_rows=true counts such rows instead of stopping")
        self.counts[reason] += 1


def too_large(where: str) -> str:
    return f"{where}: larger than {LONGEST_ROW >> 20} MiB, the most that one row may hold"


def printable(name: str) -> str:
    """A file's or column's name with characters that no UTF-8 file can hold written as escapes."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def lone_surrogate(text: str) -> int:
    """Where a character stands that no UTF-8 file can hold, -1 for a text without."""
    if text.isascii():
        return -1
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return error.start
    return -1
