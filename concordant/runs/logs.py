"""Files of JSON: how a line is written, and the one reader, which takes what a kill or a bad disk has left.

A process can be killed in the middle of a line, a resumed run cuts its logs back to its checkpoint, and a disk can
damage anything. The reader never raises for any of these: it gives every row that can be read and counts the rest.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Row = dict[str, Any]

_TAIL = 256  # bytes before the place that was read to, by which a follower knows the file again


def json_line(row: Mapping[str, Any]) -> str:
    """One line of strict JSON. NaN and infinity, which JSON has no word for, become null."""
    return json.dumps(_finite(row), ensure_ascii=False, allow_nan=False) + "\n"


def json_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(map(json_line, rows))


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """What a file of JSON lines holds, or what is new in it."""

    rows: list[Row] = field(default_factory=list)
    damaged: list[int] = field(default_factory=list)  # numbers of the lines, from 1, that are not one whole object
    ends_torn: bool = False  # behind the last newline stands a part of a line: its writer is at work, or was killed
    restarted: bool = False  # the file is another or shorter: these rows replace all that were read before

    def complaint(self, path: Path) -> str:
        """One sentence on the damaged lines; '' where there are none."""
        if not self.damaged:
            return ""
        shown = ", ".join(map(str, self.damaged[:5])) + (", …" if len(self.damaged) > 5 else "")
        count = len(self.damaged)
        what = "1 line is" if count == 1 else f"{count} lines are"
        return f"{path}: {what} damaged and left out ({'line' if count == 1 else 'lines'} {shown})"


def read_log(path: Path, key: str = "") -> Log:
    """Every row of the file; none where there is no file. A last line without its newline counts if it is whole.

    ``key``: what every row has a number for, "step" in most files; a row without one counts as damaged.
    """
    follower = Follower(path, key)
    log = follower.read()
    if not follower.rest:
        return log
    last = follower.row_of(follower.rest)
    return Log(rows=log.rows + [last] if last else log.rows, damaged=log.damaged, ends_torn=last is None)


def read_whole_lines(path: Path) -> list[tuple[Row, int]]:
    """The rows up to the first line that is not whole, each with the byte behind its line: where a file may be cut."""
    found: list[tuple[Row, int]] = []
    end = 0
    for line in path.read_bytes().splitlines(keepends=True) if path.is_file() else ():
        row = _object(line) if line.endswith(b"\n") else None
        if row is None:
            break
        end += len(line)
        found.append((row, end))
    return found


def read_json(path: Path) -> Row | None:
    """The object in a file of one JSON object; None where there is no file, or no whole object in it."""
    try:
        return _object(path.read_bytes())
    except OSError:
        return None


class Follower:
    """Reads a file as it grows: every ``read`` gives what is new since the one before."""

    def __init__(self, path: Path, key: str = "") -> None:
        self.path, self.key = path, key
        self.offset = 0  # bytes read, always behind a newline
        self.rest = b""  # what stood behind the last newline at the last read
        self._line = 0  # lines read
        self._tail = b""  # the last bytes before ``offset``

    def read(self) -> Log:
        """New whole lines. A file that was cut back or replaced since is read again from its start, and said so."""
        try:
            with self.path.open("rb") as file:
                restarted = not self._is_known(file)
                if restarted:
                    self._start_again()
                file.seek(self.offset)
                data = file.read()
        except (FileNotFoundError, NotADirectoryError):
            restarted = self.offset > 0
            self._start_again()
            return Log(restarted=restarted)
        whole, newline, self.rest = data.rpartition(b"\n")
        whole += newline
        rows, damaged = self._parse(whole)
        self.offset += len(whole)
        self._tail = (self._tail + whole)[-_TAIL:]
        return Log(rows=rows, damaged=damaged, ends_torn=bool(self.rest), restarted=restarted)

    def row_of(self, line: bytes) -> Row | None:
        """The row in a line; None where there is none."""
        row = _object(line)
        return row if row is not None and self._fits(row) else None

    def _fits(self, row: Row) -> bool:
        value = row.get(self.key)
        return not self.key or (isinstance(value, int | float) and not isinstance(value, bool))

    def _start_again(self) -> None:
        self.offset, self.rest, self._line, self._tail = 0, b"", 0, b""

    def _is_known(self, file: Any) -> bool:
        file.seek(self.offset - len(self._tail))
        return bool(file.read(len(self._tail)) == self._tail)

    def _parse(self, whole: bytes) -> tuple[list[Row], list[int]]:
        rows, damaged = [], []
        for line in whole.split(b"\n")[:-1]:
            self._line += 1
            if not line.strip():
                continue
            row = self.row_of(line)
            if row is None:
                damaged.append(self._line)
                row = self._glued(line)
            if row is not None:
                rows.append(row)
        return rows, damaged

    def _glued(self, line: bytes) -> Row | None:
        """The whole row at the end of a line that begins with a torn one: the next process wrote behind a cut."""
        start = line.find(b'{"', 1)
        while start > 0:
            row = self.row_of(line[start:])
            if row is not None:
                return row
            start = line.find(b'{"', start + 1)
        return None


def _object(line: bytes) -> Row | None:
    try:
        row = json.loads(line.decode("utf-8", errors="replace"))
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
