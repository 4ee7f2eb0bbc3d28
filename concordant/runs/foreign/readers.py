"""The readers of ``formats.FOREIGN``: each turns a file into the rows of a log, and raises no error for damage."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from concordant.core.errors import UserError
from concordant.runs.foreign.events import NAME, read_events
from concordant.runs.foreign.log import STEPS, Raw, joined, unwrapped
from concordant.runs.logs import read_log

LOG_HISTORY = "log_history"
_SUMS = {"train_runtime", "train_samples_per_second", "train_steps_per_second", "train_loss", "total_flos"}
_PLACES = {"epoch", *STEPS}
_VERL = re.compile(r"\bstep:(\d+) - (.+)$")
_PAIR = re.compile(r"([^\s:][^:]*?):(\S+)$")
_GLOBAL_STEP = re.compile(r"Global step (\d+): (\{.*\})")
_DICT = re.compile(r"\{'[^{}]*\}")
_NOT_LITERAL = re.compile(r"(?<=[:,\[ (])-?(?:nan|inf)\b")  # Python prints these names, which are no literals
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def read_state(path: Path) -> Raw:
    """transformers' trainer_state.json, which TRL and LLaMA-Factory write too."""
    state = _json(path)
    if not isinstance(state, dict) or not isinstance(state.get(LOG_HISTORY), list):
        raise UserError(f'{path} has no list "{LOG_HISTORY}"; expected the trainer_state.json of transformers')
    history = state.pop(LOG_HISTORY)
    return _of_history(path, history, state)


def read_list(path: Path) -> Raw:
    """A file that holds only ``trainer.state.log_history``."""
    return _of_history(path, _json(path), {})


def read_lines(path: Path) -> Raw:
    """A JSON object on each line. verl's file logger puts the metrics under ``data``."""
    log = read_log(path)
    rows = [{**row, **row.pop("data")} if isinstance(row.get("data"), dict) else row for row in log.rows]
    return _of_history(path, rows, _length_of(rows), log.complaint(path))


def read_board(path: Path) -> Raw:
    """The event file ``path`` with the others of its folder: a resumed run begins another file."""
    paths = sorted(path.parent.glob(f"*{NAME}*"), key=lambda p: p.name) if path.is_file() else []
    rows, damage = read_events(paths)
    return _of_history(path, rows, {}, damage)


def read_console(path: Path) -> Raw:
    """What a trainer printed: ``step:1 - …`` (verl), ``Global step 1: {…}`` (OpenRLHF), ``{'loss': …}``."""
    with path.open(encoding="utf-8", errors="replace") as file:
        rows = [row for line in file if (row := row_of_line(line))]
    return _of_history(path, rows, _length_of(rows))


def row_of_line(line: str) -> dict[str, Any] | None:
    """The metrics in a line of a console; None if the line has none."""
    line = _COLOUR.sub("", line).rstrip()
    if found := _VERL.search(line):
        pairs = [pair for part in found[2].split(" - ") if (pair := _PAIR.match(part.strip()))]
        return {"step": int(found[1]), **{pair[1]: pair[2] for pair in pairs}} if pairs else None
    if found := _GLOBAL_STEP.search(line):
        row = _literal(found[2])
        return {**row, "step": int(found[1])} if row else None
    # A progress bar may stand before the object in the same line, and two of them may share a line.
    rows = [row for text in _DICT.findall(line) if (row := _literal(text))]
    return rows[-1] if rows else None


def _literal(text: str) -> dict[str, Any] | None:
    try:
        value = ast.literal_eval(_NOT_LITERAL.sub("None", unwrapped(text)))
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None
    return value if isinstance(value, dict) else None


def _of_history(path: Path, history: Any, state: Mapping[str, Any], damage: str = "") -> Raw:
    """The rows without the sums that transformers logs after the last step; these become a part of the state."""
    found = [row for row in history if isinstance(row, dict)] if isinstance(history, list) else []
    sums = {name: row[key] for row in found for key in row if (name := key.removeprefix("train/")) in _SUMS}
    steps = [{key: value for key, value in row.items() if key.removeprefix("train/") not in _SUMS} for row in found]
    rows, counted = joined([row for row in steps if any(name not in _PLACES for name in row)])
    return Raw(path=path, rows=rows, state={**state, **sums}, damage=damage, counted=counted)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError, RecursionError) as problem:
        raise UserError(f"cannot read {path} as JSON: {problem}") from None


def _length_of(rows: list[dict[str, Any]]) -> dict[str, int]:
    """``max_steps`` from LLaMA-Factory's ``total_steps`` or ms-swift's ``global_step/max_steps``, such as 10/200."""
    found = [row.get("total_steps", str(row.get("global_step/max_steps", "")).rpartition("/")[2]) for row in rows]
    counts = [int(count) for count in found if str(count).isdigit()]
    return {"max_steps": max(counts)} if counts else {}


def lines_of(text: str) -> Iterator[dict[str, Any]]:
    """The JSON objects of whole lines in ``text``."""
    for line in text.split("\n"):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            yield row
