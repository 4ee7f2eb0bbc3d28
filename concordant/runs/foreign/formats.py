"""The logs of other trainers that can be read: one table, ``FOREIGN``. A row says how a file is recognised and read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from concordant.config.fields import nest
from concordant.core.errors import UserError
from concordant.runs.foreign import readers
from concordant.runs.foreign.events import NAME as EVENTS
from concordant.runs.foreign.keys import KNOWN, translate
from concordant.runs.foreign.log import EVAL, ForeignLog, Raw, numbers_of, step_of
from concordant.runs.foreign.method import LIKELIHOODS, OURS, REFERENCE_FREE, guess
from concordant.runs.foreign.names import assumed
from concordant.runs.foreign.settings import newest_checkpoints, settings_of
from concordant.runs.metrics import older_name
from concordant.runs.names import METRICS

_HEAD = 2**16  # characters that decide whether a file is a log
_CONSOLE_HEAD = 2**22  # a console begins with warnings and settings before its first metrics
_LONGEST_TEXT = 60  # characters of a text in a row of metrics, such as a time; answers and prompts are longer
_OF_DATA = {"prompt", "completion", "response", "chosen", "rejected", "messages", "instruction", "text", "question"}
_MOST_FILES = 200  # of a folder that are looked at


@dataclass(frozen=True, slots=True)
class Format:
    name: str
    files: tuple[str, ...]  # where a run's folder has it; the first pattern that finds a log counts
    fits: Callable[[Path, str], bool]  # by the file's name and its first characters
    read: Callable[[Path], Raw]


def is_metrics(row: Any) -> bool:
    """Whether a row holds metrics of a trainer that we know, and no texts and no lists as rows of data do."""
    if not isinstance(row, dict) or row.keys() & _OF_DATA:
        return False
    if isinstance(row.get("data"), dict):
        row = {**row["data"], "step": row.get("step")}
    if any(isinstance(v, list | dict) or (isinstance(v, str) and len(v) > _LONGEST_TEXT) for v in row.values()):
        return False
    names = {name.removeprefix(EVAL) for name in numbers_of(row)} - {"epoch"}
    has_place = step_of(row) is not None or "epoch" in row
    return has_place and bool(
        names & KNOWN or any(name.startswith(("val-core/", "actor/", "critic/")) for name in names)
    )


def _is_state(path: Path, head: str) -> bool:
    return head.lstrip().startswith("{") and f'"{readers.LOG_HISTORY}"' in head


def _is_list(path: Path, head: str) -> bool:
    start = head.find("[")
    if start < 0 or head[:start].strip():
        return False
    try:
        first, _ = json.JSONDecoder().raw_decode(head[start + 1 :].lstrip())
    except (ValueError, RecursionError):
        return False
    return is_metrics(first)


def _is_lines(path: Path, head: str) -> bool:
    rows = list(readers.lines_of(head))[:20]
    if any(older_name(name) for row in rows for name in row):
        return False  # a run of an earlier version of ours, which says so itself
    return bool(rows) and 2 * sum(map(is_metrics, rows)) > len(rows)


def _is_board(path: Path, head: str) -> bool:
    return EVENTS in path.name


def _is_console(path: Path, head: str) -> bool:
    if path.suffix not in ("", ".log", ".txt", ".out", ".err"):
        return False
    with path.open(encoding="utf-8", errors="replace") as file:
        lines = file.read(_CONSOLE_HEAD).split("\n")
    rows = filter(None, map(readers.row_of_line, lines))
    return any(numbers_of(row).keys() & KNOWN for row in rows if not row.keys() & _OF_DATA)


FOREIGN: tuple[Format, ...] = (
    Format("trainer_state.json", ("trainer_state.json",), _is_state, readers.read_state),
    Format("JSON lines", ("trainer_log.jsonl", METRICS, "logging.jsonl", "*.jsonl"), _is_lines, readers.read_lines),
    Format("log_history", ("log_history.json", "*.json"), _is_list, readers.read_list),
    Format(
        "TensorBoard events",
        (f"*{EVENTS}*", f"runs/*/*{EVENTS}*", f"logs/*{EVENTS}*"),  # transformers: OUTPUT/runs/DATE_HOST
        _is_board,
        readers.read_board,
    ),
    Format("console", ("*.log", "*.out", "*.txt"), _is_console, readers.read_console),
)


def recognise(target: Path) -> tuple[Path, Format] | None:
    """The log in ``target``, a file or a folder; None if there is none that we can read.

    A folder of checkpoints without a log of its own has the log of its newest checkpoint.
    """
    if target.is_file():
        form = _form_of(target)
        return (target, form) if form else None
    if not target.is_dir():
        return None
    for form in FOREIGN:
        for path in _candidates(target, form):
            if _form_of(path) is form:
                return path, form
    return None


def read_foreign(path: Path, form: Format) -> ForeignLog:
    """The log in our names. Raises UserError if the file holds no metrics."""
    raw = form.read(path)
    if not raw.rows:
        raise UserError(f"{path} is a log of the form {form.name}, but it holds no row of metrics yet")
    known = settings_of(raw, guess(raw.rows))
    found = known.guess
    if found.framework == OURS:
        rows = raw.rows
    else:
        without = LIKELIHOODS if found.method in REFERENCE_FREE else ()
        rows = [translate(row, found.verb, without) for row in raw.rows]
    defaults = assumed(found, known.config)
    advantage = {"advantage": found.method} if found.method in ("grpo", "rloo") else {}
    settings = {"verb": found.verb, **advantage, **known.config, **defaults}
    facts = dict(known.facts)
    if raw.counted:
        facts["steps"] = "the log gives none, so that each row counts as one step"
    return ForeignLog(
        path=path,
        form=form.name,
        framework=found.framework,
        method=found.method,
        verb=found.verb,
        because=found.because,
        rows=rows,
        config=nest(settings),
        assumed=defaults,
        facts=facts,
        damage=raw.damage,
    )


def _candidates(folder: Path, form: Format) -> Iterator[Path]:
    """The files of ``folder`` that may have the form, the most likely ones first, then those of its checkpoints."""
    for pattern in form.files:
        found = [path for path in folder.glob(pattern) if path.is_file()]
        # Of several event files the newest one counts, and its reader takes the others of its folder.
        yield from sorted(found, key=lambda p: p.stat().st_mtime, reverse=True)[:_MOST_FILES]
    for checkpoint in newest_checkpoints(folder)[:1]:
        yield from (checkpoint / name for name in form.files if "*" not in name and (checkpoint / name).is_file())


def _form_of(path: Path) -> Format | None:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            head = file.read(_HEAD)
        return next((form for form in FOREIGN if form.fits(path, head)), None)
    except OSError:
        return None
