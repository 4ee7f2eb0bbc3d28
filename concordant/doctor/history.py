"""The history of a run that the rules read: its settings, its metrics up to now, and its sampled answers."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, pvariance
from typing import Any


@dataclass(frozen=True, slots=True)
class Beside:
    """What a run folder holds beside its metrics. Each is read when a rule asks."""

    samples: Callable[[], Sequence[Mapping[str, Any]]] = tuple  # rows of samples.jsonl
    results: Callable[[], Mapping[str, Any]] = dict  # reward_model.json: measured on held-out pairs after the last step
    start: Callable[[], Mapping[str, Any]] = dict  # the event "start": what the run starts from, and what is usual
    before: Callable[[], Mapping[str, Mapping[str, float]]] = dict  # numbers of the findings before the first step


@dataclass(slots=True)
class Column:
    """One metric: the steps that logged it, and its values. NaN stands for a value that was not finite."""

    steps: array[int] = field(default_factory=lambda: array("q"))
    values: array[float] = field(default_factory=lambda: array("d"))


@dataclass(frozen=True, slots=True)
class Change:
    """Means of the first and the last rows of a metric, and their difference in standard errors."""

    before: float
    after: float
    z: float

    @property
    def by(self) -> float:
        return self.after - self.before


NOTHING = Beside()


class History:
    """The rows of a run in the order of their steps. ``config`` is the run's nested config, with its verb."""

    def __init__(self, config: Mapping[str, Any] | None = None, beside: Beside = NOTHING) -> None:
        self.config = config or {}
        self.beside = beside
        self.missing: set[str] = set()  # numbers that a rule asked for and that the run does not have
        self.step = 0  # of the last row
        self.rows = 0
        self._columns: dict[str, Column] = {}

    def add(self, row: Mapping[str, Any]) -> None:
        self.step, self.rows = int(row["step"]), self.rows + 1
        for name, value in row.items():
            column = self._columns.setdefault(name, Column())
            column.steps.append(self.step)
            column.values.append(math.nan if value is None else float(value))

    @property
    def stage(self) -> str:
        return str(self.config.get("verb", ""))

    def setting(self, key: str, default: Any = None) -> Any:
        """A value of the config by its dotted key."""
        place: Any = self.config
        for name in key.split("."):
            if not isinstance(place, Mapping) or name not in place:
                return default
            place = place[name]
        return place

    def number(self, key: str) -> float:
        """A setting that is a number; 0 where it is not known."""
        value = self.setting(key)
        return float(value) if isinstance(value, (int, float)) else 0.0

    def usual(self, key: str) -> float | None:
        """A number of the event "start": steps, steps_needed, usual_rate, examples or weights."""
        value = self.beside.start().get(key)
        if value is None:
            self.missing.add(f"{key} (event start)")
        return value

    def before(self, rule: str) -> Mapping[str, float]:
        """The numbers of a finding before the first step; empty where there was none."""
        return self.beside.before().get(rule, {})

    def result(self, key: str) -> float | None:
        """A number that the finished run measured on its held-out pairs."""
        value = self.beside.results().get(key)
        if value is None:
            self.missing.add(f"{key} on held-out pairs")
        return value

    @property
    def progress(self) -> float:
        """Share of the run that is done; 1 if the config gives neither steps nor epochs."""
        steps, epochs = self.setting("train.max_steps", 0), self.setting("train.epochs", 0)
        if steps:
            return self.step / float(steps)
        return (self.latest("epoch") or 0.0) / float(epochs) if epochs else 1.0

    @property
    def is_at_full_rate(self) -> bool:
        """False during the warm-up and near the end of the schedule, where the learning rate is low."""
        full = self.setting("train.learning_rate")
        return not full or (self.latest("learning_rate") or 0.0) >= 0.3 * float(full)

    def _column(self, name: str) -> Column | None:
        column = self._columns.get(name)
        if column is None:
            self.missing.add(name)
        return column

    def has(self, name: str) -> bool:
        """Whether some row has the metric. Asking is not needing: a missing one is not noted."""
        return name in self._columns

    def values(self, name: str, last: int = 0) -> list[float]:
        """Every value of ``name`` in order, or only the last ``last`` values."""
        column = self._column(name)
        return list(column.values[-last:] if last else column.values) if column else []

    def first(self, name: str) -> float | None:
        """The first value of ``name``."""
        column = self._column(name)
        return column.values[0] if column else None

    def at(self, name: str, step: int) -> float | None:
        """The value logged at ``step``. Only the first four values are searched; None if ``step`` is not among them."""
        column = self._column(name)
        for found, value in zip(column.steps[:4], column.values[:4], strict=True) if column else ():
            if found == step:
                return value
        return None

    def step_of_least(self, name: str) -> int:
        """The step that logged the least value of ``name``; 0 if none did."""
        column = self._column(name)
        return min(zip(column.values, column.steps, strict=True))[1] if column else 0

    def latest(self, name: str) -> float | None:
        column = self._column(name)
        return column.values[-1] if column else None

    def now(self, name: str, rows: int = 8) -> float | None:
        """Mean of the last ``rows`` values; None if there are fewer values or one is not finite."""
        return self._mean_of(name, self.values(name, rows), rows)

    def start(self, name: str, rows: int = 8) -> float | None:
        """Mean of the first ``rows`` values."""
        column = self._column(name)
        return self._mean_of(name, list(column.values[:rows]), rows) if column else None

    def _mean_of(self, name: str, values: Sequence[float], count: int) -> float | None:
        if values and len(values) < count:
            self.missing.add(f"{count} rows of {name} (the log has {len(values)})")
        return _mean(values, count)

    def until_first(self, of: str, name: str, rows: int = 8) -> float | None:
        """Mean of the last ``rows`` values of ``name`` up to the step that logged the first value of ``of``."""
        first, column = self._column(of), self._column(name)
        if first is None or column is None:
            return None
        known = [v for s, v in zip(column.steps, column.values, strict=True) if s <= first.steps[0]][-rows:]
        return _mean(known, min(rows, max(1, len(known))))

    def change(self, name: str, rows: int = 8) -> Change | None:
        """The change from the first ``rows`` values to the last ones; None if these overlap or one is not finite."""
        column = self._column(name)
        if column is None:
            return None
        if len(column.values) < 2 * rows:
            self.missing.add(f"{2 * rows} rows of {name} (the log has {len(column.values)})")
            return None
        first, last = list(column.values[:rows]), list(column.values[-rows:])
        before, after = _mean(first, rows), _mean(last, rows)
        if before is None or after is None:
            return None
        error = math.sqrt((pvariance(first) + pvariance(last)) / max(rows - 1, 1))
        return Change(before, after, (after - before) / max(error, 1e-12))


def _mean(values: Sequence[float], count: int) -> float | None:
    if len(values) < count or not all(map(math.isfinite, values)):
        return None
    return fmean(values)
