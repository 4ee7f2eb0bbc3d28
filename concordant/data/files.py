"""Reads the rows of one file, one at a time: JSON, JSONL, CSV (each may be gzipped) and Parquet.

Every row holds the name of its file and the number of its line or row, because later error messages name them.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from concordant.core.errors import UserError, nearest
from concordant.data.json_text import JsonParser
from concordant.data.parquet import BATCH, parquet_rows
from concordant.data.rows import (
    LONGEST_ROW,
    TOO_LARGE,
    TRUNCATED,
    BadRows,
    Row,
    lone_surrogate,
    too_large,
)

MALFORMED, BAD_UTF8 = "malformed row", "bad UTF-8"
WRAPPERS = {"train", "test", "validation", "data", "rows", "examples"}  # keys that may hold the whole list
OTHER_UNICODE = {  # byte order marks of encodings that are not supported
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
BROKEN_GZIP = (EOFError, gzip.BadGzipFile, zlib.error)
CHUNK = 1 << 20  # bytes read at a time from a JSON list


def kind_of(path: Path) -> str:
    """The suffix that selects the reader of a file, e.g. '.jsonl' for ``a.jsonl.gz``."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def is_data_file(path: Path) -> bool:
    return kind_of(path) in READERS


def check_kind(path: Path) -> None:
    """Raise UserError for a kind of file that no reader knows. Pickles have their own message: they can run code."""
    kind = kind_of(path)
    if kind in READERS:
        return
    if kind in (".pkl", ".pickle", ".pt", ".pth", ".bin", ".joblib"):
        raise UserError(f"{path}: refused, since opening a pickle can run code. Save the rows as JSONL or Parquet")
    known = ", ".join(sorted(READERS))
    raise UserError(
        f'{path}: unknown kind of data file "{kind}".{nearest(kind, READERS)} Known: {known}, also with .gz'
    )


def read_file(path: Path, name: str, bad: BadRows, on_bytes: Callable[[int], None] | None = None) -> Iterator[Row]:
    """The rows of ``path``. Messages call the file ``name``. ``on_bytes`` now and then gets the number of bytes read.

    The memory needed is one row (JSONL, CSV), about ``CHUNK`` bytes (a JSON list), or ``BATCH`` rows and a page
    (Parquet).
    """
    check_kind(path)
    try:
        with path.open("rb") as raw:
            zipped = raw.peek(2)[:2] == b"\x1f\x8b"
            stream: IO[bytes] = gzip.GzipFile(fileobj=raw) if zipped else raw  # type: ignore[assignment]
            _check_encoding(stream, name)
            for count, row in enumerate(READERS[kind_of(path)](stream, name, bad)):
                if on_bytes and count % BATCH == 0:
                    on_bytes(raw.tell())
                yield row
    except OSError as error:
        raise UserError(f"cannot read {name}: {error.strerror or error}") from error


def _check_encoding(stream: IO[bytes], name: str) -> None:
    try:
        head = stream.peek(4)[:4]  # type: ignore[attr-defined]
    except BROKEN_GZIP:
        return  # the readers report the damage with its place
    found = next((encoding for mark, encoding in OTHER_UNICODE.items() if head.startswith(mark)), "")
    if found:
        raise UserError(f"{name}: written in {found}. Expected UTF-8: iconv -f {found} -t UTF-8 FILE > NEW")


def _lines(stream: IO[bytes], name: str, bad: BadRows) -> Iterator[tuple[int, str]]:
    """Numbered lines as text. Each line is decoded alone, so that a bad byte is reported with its own line."""
    number = 0
    while True:
        number += 1
        try:
            line = stream.readline(LONGEST_ROW + 1)
            if len(line) > LONGEST_ROW and not line.endswith(b"\n"):
                bad.report(TOO_LARGE, too_large(f"{name} line {number}"))
                while line and not line.endswith(b"\n"):
                    line = stream.readline(CHUNK)
                continue
        except BROKEN_GZIP as error:
            bad.report(TRUNCATED, f"{name} line {number}: the gzip file is truncated or damaged ({error})")
            return
        if not line:
            return
        try:
            yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            bad.report(BAD_UTF8, f"{name} line {number}: not UTF-8 at byte {error.start + 1} of the line")


def _json(stream: IO[bytes], name: str, bad: BadRows) -> Iterator[Row]:
    """Rows of a list of objects, or of one object a line. The first character decides, and not the file's name."""
    try:
        head = stream.peek(64)  # type: ignore[attr-defined]
    except BROKEN_GZIP as error:
        bad.report(TRUNCATED, f"{name} line 1: the gzip file is truncated or damaged ({error})")
        return
    if head.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"["):
        yield from _json_list(stream, name, bad)
    else:
        yield from _json_lines(stream, name, bad)


def _json_lines(stream: IO[bytes], name: str, bad: BadRows) -> Iterator[Row]:
    parser = JsonParser()
    for number, text in _lines(stream, name, bad):
        if text.isspace():
            continue
        try:
            values = parser.whole(text)
        except json.JSONDecodeError as error:
            expected = "expected one JSON object a line, or a list of objects"
            bad.report(
                MALFORMED, f"{name} line {number}: malformed JSON, {error.msg} (column {error.colno}); {expected}"
            )
            continue
        except (ValueError, RecursionError) as error:  # a number of 5,000 digits; nesting 10,000 deep
            bad.report(MALFORMED, f"{name} line {number}: malformed JSON, {error}")
            continue
        if problem := parser.problem():
            bad.report(MALFORMED, f"{name} line {number}: {problem}")
        elif _is_wrapped(values):
            yield from _wrapped(values, name, number)
        elif isinstance(values, dict):
            yield Row(file=name, unit="line", number=number, values=values)
        else:
            bad.report(MALFORMED, f"{name} line {number}: {_not_an_object(values)}")


def _is_wrapped(values: object) -> bool:
    """True for ``{"train": [row, …]}``: an object with keys of ``WRAPPERS`` only, whose values are lists of rows."""
    return (
        isinstance(values, dict)
        and bool(values)
        and values.keys() <= WRAPPERS
        and all(isinstance(rows, list) and all(isinstance(row, dict) for row in rows) for rows in values.values())
    )


def _wrapped(values: dict[str, list[dict[str, Any]]], name: str, line: int) -> Iterator[Row]:
    if len(values) > 1:
        raise UserError(
            f"{name} line {line}: several lists in one object ({', '.join(values)}). Save each as a file of its own"
        )
    for rows in values.values():
        for number, row in enumerate(rows, start=1):
            yield Row(file=name, unit="row", number=number, values=row)


def _not_an_object(value: object) -> str:
    return f"expected a JSON object with named columns, found {json.dumps(value)[:40]}"


class _JsonWindow:
    """A sliding window on a long JSON text, so that a list of any length is read in little memory."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream
        # Bytes that are not UTF-8 become lone surrogates, so that they can be reported with their own row.
        self.decode = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape").decode
        self.parser = JsonParser()
        self.text, self.at, self.line, self.ended = "", 0, 1, False
        self.broken: Exception | None = None

    def line_at(self, position: int) -> int:
        return self.line + self.text.count("\n", 0, position)

    def fill(self) -> None:
        """Forget the text that was read, and load at least as much as is left, so that the total work stays linear."""
        self.line = self.line_at(self.at)
        if len(self.text) - self.at > LONGEST_ROW:
            raise ValueError(f"a row larger than {LONGEST_ROW >> 20} MiB")
        ahead = self.text[self.at :]
        data = self._read(max(CHUNK, len(ahead)))
        self.text, self.at, self.ended = ahead + self.decode(data, final=not data), 0, not data
        if self.ended and self.broken:
            raise self.broken

    def _read(self, size: int) -> bytes:
        """Up to ``size`` bytes. In a damaged gzip file, only the bytes before the damage; ``fill`` raises later."""
        parts: list[bytes] = []
        try:
            while size > 0 and (part := self.stream.read1(size)):  # type: ignore[attr-defined]
                parts.append(part)
                size -= len(part)
        except BROKEN_GZIP as error:
            self.broken = error
        return b"".join(parts)

    def next_character(self) -> str:
        """The next character that is not white space, or '' at the end. It stays in the text."""
        while True:
            while self.at < len(self.text) and self.text[self.at] in " \t\r\n":
                self.at += 1
            if self.at < len(self.text) or self.ended:
                return self.text[self.at : self.at + 1]
            self.fill()

    def value(self) -> tuple[Any, int]:
        """The next JSON value, and the line of the first byte in it that is not UTF-8, or 0.

        Raises json.JSONDecodeError only if more text would not help.
        """
        while True:
            try:
                value, end = self.parser.first(self.text, self.at)
            except json.JSONDecodeError:
                if self.ended:
                    raise
            else:
                if end < len(self.text) or self.ended:  # a number at the end of the window may continue
                    source, start, self.at = self.text[self.at : end], self.at, end
                    wrong = lone_surrogate(source)
                    return value, 0 if wrong < 0 else self.line_at(start + wrong)
            self.fill()


def _json_list(stream: IO[bytes], name: str, bad: BadRows) -> Iterator[Row]:
    window = _JsonWindow(stream)
    number = 0
    try:
        window.next_character()
        window.at += 1  # the "["
        while window.next_character() not in ("]", ""):
            values, wrong_line = window.value()
            problem = window.parser.problem()
            number += 1
            if wrong_line:
                bad.report(BAD_UTF8, f"{name} line {wrong_line}: not UTF-8, in row {number}")
            elif problem:
                bad.report(MALFORMED, f"{name} row {number}: {problem}")
            elif isinstance(values, dict):
                yield Row(file=name, unit="row", number=number, values=values)
            else:
                bad.report(MALFORMED, f"{name} row {number}: {_not_an_object(values)}")
            after = window.next_character()
            if after == ",":
                window.at += 1
            elif after != "]":
                raise json.JSONDecodeError("expected ',' or ']' after a row", window.text, window.at)
        if window.next_character() == "":
            raise json.JSONDecodeError("the list is not closed", window.text, window.at)
    except json.JSONDecodeError as error:
        line = window.line_at(error.pos)
        bad.report(TRUNCATED, f"{name} line {line}: malformed JSON after row {number}, {error.msg}")
    except BROKEN_GZIP as error:
        line = window.line_at(len(window.text))
        bad.report(
            TRUNCATED, f"{name} line {line}: the gzip file is truncated or damaged, after row {number} ({error})"
        )
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits; nesting 10,000 deep
        line = window.line_at(window.at)
        bad.report(TRUNCATED, f"{name} line {line}: malformed JSON after row {number}, {error}")


def _csv(stream: IO[bytes], name: str, bad: BadRows) -> Iterator[Row]:
    """Rows of a file with a header and with commas, semicolons or tabs. A quoted field may have several lines."""
    csv.field_size_limit(LONGEST_ROW)  # the default of 128 KiB is less than a long dialogue
    line = 0

    def texts() -> Iterator[str]:
        nonlocal line
        for line, text in _lines(stream, name, bad):  # noqa: B007  (read by the loop below)
            yield text

    source = texts()
    first = next(source, None)
    if first is None:
        return
    start_again, line = line, 0

    def from_the_first() -> Iterator[str]:
        nonlocal line
        line = start_again
        yield first
        yield from source

    reader = csv.reader(from_the_first(), strict=True, delimiter=_delimiter(first))
    header: list[str] | None = None
    while True:
        start = line + 1
        try:
            fields = next(reader, None)
        except csv.Error as error:
            bad.report(MALFORMED, f"{name} line {start}: malformed CSV, {error}")
            continue
        if fields is None:
            return
        if header is None:
            header = fields
            if len(set(header)) < len(header):
                raise UserError(f"{name} line {start}: a column name stands twice in the header ({', '.join(header)})")
        elif len(fields) == len(header):
            yield Row(file=name, unit="line", number=start, values=dict(zip(header, fields, strict=True)))
        elif fields:  # an empty list is a blank line
            bad.report(MALFORMED, f"{name} line {start}: {len(fields)} fields, but the header has {len(header)}")


def _delimiter(header: str) -> str:
    """A comma if the header has one, else a semicolon or a tab if the header has one."""
    return "," if "," in header else next((mark for mark in (";", "\t") if mark in header), ",")


Reader = Callable[[IO[bytes], str, BadRows], Iterator[Row]]
READERS: dict[str, Reader] = {
    ".json": _json,
    ".jsonl": _json,
    ".ndjson": _json,
    ".csv": _csv,
    ".parquet": parquet_rows,
}
