"""Writes lines of JSON, and reads such files even if a kill or a bad disk has damaged them.

A process can be killed in the middle of a line, a resumed run shortens its logs to its checkpoint, and a disk can
damage any byte. The reader raises no error in these cases. It returns every row that can be read and counts the others.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Row = dict[str, Any]

_TAIL = 256  # a follower compares so many bytes before its position, to notice that the file was replaced


def json_line(row: Mapping[str, Any]) -> str:
    """One line of strict JSON. NaN and infinity become null, because JSON has no such numbers."""
    return json.dumps(_finite(row), ensure_ascii=False, allow_nan=False) + "\n"


def json_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(map(json_line, rows))


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """The rows of a file of JSON lines, or only its new rows."""

    rows: list[Row] = field(default_factory=list)
    damaged: list[int] = field(default_factory=list)  # numbers, from 1, of the lines that are not one complete object
    ends_torn: bool = False  # the file ends with an incomplete line: its writer is still writing, or was killed
    restarted: bool = False  # the file was replaced or shortened: these rows replace all earlier rows

    def complaint(self, path: Path) -> str:
        """A sentence about the damaged lines; '' if there are none."""
        if not self.damaged:
            return ""
        shown = ", ".join(map(str, self.damaged[:5])) + (", …" if len(self.damaged) > 5 else "")
        count = len(self.damaged)
        what = "1 line is" if count == 1 else f"{count} lines are"
        return f"{path}: {what} damaged and left out ({'line' if count == 1 else 'lines'} {shown})"


def read_log(path: Path, key: str = "") -> Log:
    """Every row of the file; no rows if there is no file. A complete last line counts also without its newline.

    Every row must have a number under ``key``, which is "step" in most files. A row without it counts as damaged.
    """
    follower = Follower(path, key)
    log = follower.read()
    if not follower.rest:
        return log
    last = follower.row_of(follower.rest)
    return Log(rows=log.rows + [last] if last else log.rows, damaged=log.damaged, ends_torn=last is None)


def read_whole_lines(path: Path) -> list[tuple[Row, int]]:
    """The rows before the first incomplete line, each with the offset of its end, where the file may be shortened."""
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
    """The object in a file of one JSON object; None if there is no file or no complete object."""
    try:
        return _object(path.read_bytes())
    except OSError:
        return None


class Follower:
    """Reads a file while it grows. Each call of ``read`` returns the rows that are new since the last call."""

    def __init__(self, path: Path, key: str = "") -> None:
        self.path, self.key = path, key
        self.offset = 0  # bytes read so far, up to the end of a line
        self.rest = b""  # the incomplete line that the last read found at the end
        self._line = 0  # lines read so far
        self._tail = b""  # the last bytes before ``offset``

    def read(self) -> Log:
        """The new complete lines. A shortened or replaced file is read again from its start (``restarted``)."""
        whole, restarted = self.read_lines()
        rows, damaged = self.parse(whole)
        return Log(rows=rows, damaged=damaged, ends_torn=bool(self.rest), restarted=restarted)

    def read_lines(self) -> tuple[bytes, bool]:
        """The bytes of the new complete lines, and whether they replace all earlier ones, as ``read`` says."""
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
            return b"", restarted
        end = data.rfind(b"\n") + 1
        whole, self.rest = data[:end], data[end:]  # a whole slice of bytes is no copy, and files may be large
        self.offset += end
        self._tail = (self._tail + whole[-_TAIL:])[-_TAIL:]
        return whole, restarted

    def row_of(self, line: bytes) -> Row | None:
        """The row in a line; None if the line has no row."""
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

    def parse(self, whole: bytes) -> tuple[list[Row], list[int]]:
        """The rows in these lines, and the numbers of the damaged lines."""
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
        """The complete row at the end of a line that begins with an incomplete row.

        Such a line appears when a process is killed inside a row and the next process appends to the file.
        """
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
