"""The rows of samples.jsonl for the page of a run: filtered, a page at a time, and as quantiles over training."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

from concordant.runs.logs import Follower, Row
from concordant.runs.names import SAMPLES

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_KEPT = 8  # runs whose samples stay in memory


class Samples:
    """The samples of the runs that were asked for last. A file is read once, and then only where it grows."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Path, tuple[Follower, list[Row]]] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, folder: Path) -> list[Row]:
        """All rows of the run. The list of best-of-n has one row for each prompt, with all its answers."""
        path = folder / SAMPLES
        with self._lock:
            follower, rows = self._kept.pop(path) if path in self._kept else (Follower(path), [])
            new = follower.read()
            rows = new.rows if new.restarted else rows + new.rows
            self._kept[path] = (follower, rows)
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return rows


def found(rows: list[Row], split: str, step: int | None, text: str) -> list[Row]:
    """The rows of this split ("" for both) and step, whose prompt or answer contains ``text``."""
    wanted = text.lower()
    return [
        row
        for row in rows
        if (not split or row.get("split") == split)
        and (step is None or row.get("step") == step)
        and (not wanted or wanted in _words(row))
    ]


def steps_of(rows: list[Row]) -> list[int]:
    return sorted({row["step"] for row in rows if isinstance(row.get("step"), int)})


def distribution(rows: list[Row], key: str) -> list[dict[str, Any]]:
    """The quantiles of the number ``key`` at each step and split, with the number of answers."""
    groups: dict[tuple[str, int], list[float]] = {}
    for row in rows:
        value, step = row.get(key), row.get("step")
        if isinstance(value, int | float) and isinstance(step, int) and math.isfinite(value):
            groups.setdefault((str(row.get("split", "")), step), []).append(float(value))
    return [
        {
            "split": split,
            "step": step,
            "answers": len(values),
            "quantiles": [_quantile(sorted(values), q) for q in QUANTILES],
        }
        for (split, step), values in sorted(groups.items())
    ]


def _quantile(values: list[float], share: float) -> float:
    """Between the two nearest values, in proportion."""
    place = share * (len(values) - 1)
    low = math.floor(place)
    high = min(low + 1, len(values) - 1)
    return values[low] + (place - low) * (values[high] - values[low])


def _words(row: Row) -> str:
    turns = row.get("prompt")
    prompt = (
        " ".join(str(t.get("content", "")) for t in turns if isinstance(t, dict)) if isinstance(turns, list) else ""
    )
    return f"{prompt} {row.get('response', '')} {row.get('answers', '')}".lower()
