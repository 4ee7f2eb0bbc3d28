"""What a reader of another trainer's log returns: first the rows as they stand, then the rows in our names."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from concordant.runs.logs import Row

OTHER = "foreign/"  # prefix of a metric that has no counterpart among ours; the value is as the trainer wrote it
EVAL = "eval/"
STEPS = ("step", "global_step", "current_steps", "training/global_step", "_step")  # keys that hold the step, in order
_GREATEST = 1e100  # a greater value counts as not finite: its square is not
_MOST_STEPS = 2**53  # a greater number is damage
_WRAPPED = re.compile(r"(?:np\.\w+|numpy\.\w+|tensor)\(\s*([^(),]+)[^()]*\)")  # np.float64(0.5), tensor(0.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Raw:
    """A log as it stands, with the names of its trainer. A name of held-out data begins with ``eval/``."""

    path: Path  # the file that was read; of several event files the first
    rows: list[Row]  # each has "step"; rows of one step are joined
    state: Mapping[str, Any] = field(default_factory=dict)  # trainer_state.json without its rows; sums at the end
    damage: str = ""  # a sentence about what could not be read
    counted: bool = False  # the log gives no step, so that a row counts as a step


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignLog:
    """A run of another trainer, in our names and units."""

    path: Path
    form: str  # the name of a row of ``FOREIGN``
    framework: str
    method: str  # the trainer's word: "dpo", "grpo", "kto"; "" if the keys do not say
    verb: str  # our verb whose metrics the method has; "" if the keys do not say
    because: str  # how framework and method were guessed
    rows: list[Row]  # our metrics with "step"; a metric without a counterpart has the prefix ``OTHER``
    config: Mapping[str, Any]  # the known settings, nested as in our config.yaml
    assumed: Mapping[str, Any]  # settings that no file gives: the framework's defaults, by dotted key
    facts: Mapping[str, str]  # what else the files beside the log say, in words
    damage: str = ""

    @property
    def others(self) -> list[str]:
        """The trainer's metrics that have no counterpart among ours, sorted."""
        return sorted({name.removeprefix(OTHER) for row in self.rows for name in row if name.startswith(OTHER)})


def number(value: Any) -> float | None:
    """A finite number; NaN if it is null or not finite; None if ``value`` is no number.

    transformers 5 prints its numbers as texts, and NumPy 2 prints ``np.float64(0.5)``.
    """
    if value is None:
        return math.nan
    if isinstance(value, str):
        try:
            value = float(unwrapped(value))
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) <= _GREATEST else math.nan


def unwrapped(text: str) -> str:
    """``text`` with ``np.float64(0.5)`` and ``tensor(0.5, device='cuda:0')`` as ``0.5``."""
    return _WRAPPED.sub(r"\1", text)


def numbers_of(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row by their names. ``eval_loss`` is called ``eval/loss``, and ``train/loss`` ``loss``."""
    found = {}
    for name, value in row.items():
        known = number(value)
        if known is not None:
            found[plain_name(str(name))] = known
    return found


def plain_name(name: str) -> str:
    """The name without the prefix of the training part, and with ``eval/`` for held-out data.

    transformers writes ``eval_loss`` to its files and ``eval/loss`` to TensorBoard. OpenRLHF's SFT trainer writes
    ``eval/eval gpt_loss``.
    """
    for prefix in ("eval/eval_", "eval/eval ", "eval_", "eval/"):
        if name.startswith(prefix):
            return EVAL + name.removeprefix(prefix)
    return name.removeprefix("train/")


def step_of(row: Mapping[str, Any]) -> int | None:
    """The step of a row, from the first of ``STEPS`` that the row has. ms-swift writes ``10/200``."""
    for key in (*STEPS, "train/global_step", "global_step/max_steps"):
        value = row.get(key)
        if isinstance(value, str):
            value = value.partition("/")[0]
            value = int(value) if value.isdigit() else None
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < _MOST_STEPS:
            return int(value)
    return None


def joined(rows: list[Mapping[str, Any]]) -> tuple[list[Row], bool]:
    """The numbers of all rows with those of one step in one row, in the order of the steps; and whether they had steps.

    A later value of a step replaces an earlier one, as in a run that was resumed. If no row has a step, the rows are
    counted: a row whose first name was in the row before begins the next step.
    """
    steps = [step_of(row) for row in rows]
    counted = not any(step is not None for step in steps)
    made: dict[int, Row] = {}
    now = 0
    for row, step in zip(rows, steps, strict=True):
        numbers = numbers_of(row)
        for key in (*STEPS, "global_step/max_steps"):
            numbers.pop(key, None)
        if counted:
            is_training = not any(name.startswith(EVAL) for name in numbers)
            now += is_training or not now
        elif step is None:
            continue  # a sum at the end, or a line of another writer
        else:
            now = step
        made.setdefault(now, {"step": now}).update(numbers)
    return [made[step] for step in sorted(made)], counted
