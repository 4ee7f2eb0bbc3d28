"""The metrics of runs as columns, read once and then only where the files grow."""

from __future__ import annotations

import math
import threading
from array import array
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from concordant.runs.logs import Follower, Row
from concordant.runs.names import METRICS

_LARGE = 2**18  # bytes of new lines from which pyarrow is faster than Python's own reader
_KEPT = 24  # runs whose columns stay in memory
_STEP = "step"


@dataclass(slots=True)
class Column:
    """One metric: the steps at which it was logged, and its values. A null is left out, as a metric that is missing."""

    steps: array[float] = field(default_factory=lambda: array("d"))
    values: array[float] = field(default_factory=lambda: array("d"))


class Columns:
    """The columns of one metrics.jsonl. Each call of ``read`` takes in what is new in the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._follower = Follower(path, _STEP)
        self.lock = threading.Lock()  # of the columns, because requests come on several threads
        self.columns: dict[str, Column] = {}
        self.rows = 0
        self.last: Row = {}  # the newest row
        self.generation = 0  # grows when the file was shortened or replaced, as by a resume

    def read(self) -> Columns:
        with self.lock:
            whole, restarted = self._follower.read_lines()
            if restarted:
                self.columns, self.rows, self.last, self.generation = {}, 0, {}, self.generation + 1
            if whole:
                self._take(whole)
        return self

    def _take(self, whole: bytes) -> None:
        if len(whole) < _LARGE or not self._take_fast(whole):
            for row in self._follower.parse(whole)[0]:
                self._add(row)
        last = self._follower.row_of(whole[whole.rfind(b"\n", 0, len(whole) - 1) + 1 :])
        self.last = last or self.last

    def _add(self, row: Row) -> None:
        self.rows += 1
        for name, value in row.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                column = self.columns.setdefault(name, Column())
                column.steps.append(float(row[_STEP]))
                column.values.append(_number(value))

    def _take_fast(self, whole: bytes) -> bool:
        """Read many lines with pyarrow. False, with nothing taken, if a line is not as a run writes it."""
        import numpy as np
        import pyarrow as pa
        import pyarrow.json as pj

        try:
            table = pj.read_json(pa.BufferReader(whole), pj.ReadOptions(block_size=max(2**20, len(whole) // 8)))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            return False
        if _STEP not in table.column_names or table.num_rows != whole.count(b"\n"):
            return False
        numeric = {f.name for f in table.schema if pa.types.is_integer(f.type) or pa.types.is_floating(f.type)}
        if _STEP not in numeric or table[_STEP].null_count:
            return False
        steps = table[_STEP].to_numpy().astype(np.float64)
        for name in table.column_names:
            if name in numeric:
                values = table[name].to_numpy().astype(np.float64)
                kept = slice(None) if not table[name].null_count else ~np.isnan(values)
                column = self.columns.setdefault(name, Column())
                column.steps.frombytes(steps[kept].tobytes())
                column.values.frombytes(values[kept].tobytes())
        self.rows += table.num_rows
        return True


class Cache:
    """The columns of the runs that were asked for last."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Path, Columns] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, folder: Path) -> Columns:
        """The columns of a run folder, with everything that its file has now."""
        path = folder / METRICS
        with self._lock:
            columns = self._kept.pop(path, None) or Columns(path)
            self._kept[path] = columns
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return columns.read()


def load_reader() -> None:
    """Load the fast reader. Its first use takes longer than reading a long file."""
    import pyarrow.json  # noqa: F401


def _number(value: Any) -> float:
    try:
        number = float(value)
    except OverflowError:  # a whole number of 400 digits
        return math.nan
    return number if math.isfinite(number) else math.nan
