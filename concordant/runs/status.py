"""status.json says what a run is doing. The run writes the file, and programs that watch the run read it.

A run writes the file when its state changes, and otherwise at most once a second, also from within a long step.
``read`` also checks whether the process still exists, so that a killed run is not reported as running.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Literal, get_args

from concordant.core.errors import DONE, FAILED, STOPPED, WRONG_USAGE, RunStopped, UserError
from concordant.runs.atomic import write_bytes, write_text
from concordant.runs.lock import is_held
from concordant.runs.logs import read_json
from concordant.runs.names import LOCK, STATUS

State = Literal[
    "preparing",  # the run reads data and models
    "training",
    "evaluating",
    "saving",  # the run writes a checkpoint or the result
    "running",  # for best-of-n and pipelines, which have prompts or stages and no training steps
    "finished",
    "stopped",  # the run can be resumed
    "failed",
]
STATES: tuple[State, ...] = get_args(State)
FINAL: tuple[State, ...] = ("finished", "stopped", "failed")
Life = Literal["running", "finished", "stopped", "failed", "died", "unknown"]

SECONDS_BETWEEN = 1.0  # least time between two writes while the state stays the same


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The contents of status.json. Times are ISO 8601 in UTC."""

    verb: str = ""  # "ppo", …; "run" for a pipeline
    state: State = "preparing"
    step: int = 0  # steps taken; for best-of-n: prompts answered; for a pipeline: stages done
    total: int = 0  # steps in all; 0: not known yet
    stage: str = ""  # for a pipeline: the name of the stage that runs
    within: str = ""  # how far the work within a long step is: "3 of 12 micro-batches"
    started: str = ""  # when this process opened the folder
    updated: str = ""  # when this file was written
    pid: int = 0
    host: str = ""
    message: str = ""  # why the run stopped or failed
    exit_code: int | None = None  # in a final state: 0 done, 1 failed, 2 wrong usage or bad input, 3 stopped


@dataclass(frozen=True, slots=True)
class Reading:
    """A status, and whether its process is alive."""

    status: Status
    life: Life  # "died": no process holds the folder and no end was written; "unknown": it ran on another host


class StatusWriter:
    """Keeps ``folder``/status.json up to date. If the file cannot be written, the run goes on."""

    def __init__(self, folder: Path, verb: str = "") -> None:
        self.path = folder / STATUS
        self.status = Status(verb=verb, started=_now(), pid=os.getpid(), host=socket.gethostname())
        self._before = self.path.read_bytes() if self.path.is_file() else None
        self._written = 0.0  # time of the last write, by the monotonic clock
        self._is_over = False

    def update(
        self,
        state: State | None = None,
        step: int | None = None,
        total: int | None = None,
        *,
        verb: str | None = None,
        stage: str | None = None,
    ) -> None:
        """Write the values that have changed. None means that a value stays the same."""
        given = {"state": state, "step": step, "total": total, "verb": verb, "stage": stage, "within": ""}
        old = self.status
        self.status = replace(old, **{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
        said = (old.state, old.stage, old.verb) == (self.status.state, self.status.stage, self.status.verb)
        if not said or time.monotonic() - self._written >= SECONDS_BETWEEN:
            self._write()

    def alive(self, counted: str, done: int, total: int) -> None:
        """A listener of ``core/alive.py``: write how far the work within a step is, at most once a second."""
        if not self._is_over and time.monotonic() - self._written >= SECONDS_BETWEEN:
            self.status = replace(self.status, within=f"{done:,} of {total:,} {counted}")
            self._write()

    @contextmanager
    def during(self, state: State) -> Iterator[None]:
        """Inside the block the state is ``state``; afterwards it is the earlier state. An error leaves ``state``."""
        before = self.status.state
        self.update(state)
        yield
        self.update(before)

    def end(self, error: BaseException | None = None) -> None:
        """Write the final state: finished, or the state that ``error`` means. Only the first call counts."""
        if self._is_over:
            return
        self._is_over = True
        if isinstance(error, UserError) and self.status.state == "preparing" and self._before is not None:
            with suppress(OSError):
                write_bytes(self.path, self._before)  # a refused resume leaves the earlier status
            return
        state, code = _meaning(error)
        message = "" if error is None else str(error) or type(error).__name__
        self.status = replace(self.status, state=state, exit_code=code, message=message, within="")
        self._write(durable=True)

    def __enter__(self) -> StatusWriter:
        self._write()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.end(error)

    def _write(self, durable: bool = False) -> None:
        self.status = replace(self.status, updated=_now())
        self._written = time.monotonic()
        text = json.dumps(asdict(self.status), ensure_ascii=False, indent=1) + "\n"
        try:
            write_text(self.path, text, durable)
        except OSError:
            if durable:  # how a run ended is said even on a full disk, in the room that the file has already
                with suppress(OSError):
                    self._write_in_place(text.encode("utf-8", "backslashreplace"))

    def _write_in_place(self, data: bytes) -> None:
        with self.path.open("r+b") as file:
            file.write(data)
            file.truncate()


def read(folder: Path) -> Reading | None:
    """The status of a run folder, and whether its process is alive. None if the status cannot be read."""
    found = read_json(folder / STATUS)
    if found is None or found.get("state") not in STATES:
        return None
    known = {field.name for field in fields(Status)}
    status = Status(**{name: value for name, value in found.items() if name in known})
    if not isinstance(status.pid, int) or not isinstance(status.host, str):
        return None
    if status.state in FINAL:
        return Reading(status, status.state)  # type: ignore[arg-type]
    if status.host != socket.gethostname():
        return Reading(status, "unknown")
    return Reading(status, "running" if _exists(status.pid) and is_held(folder / LOCK) else "died")


def _meaning(error: BaseException | None) -> tuple[State, int]:
    if error is None:
        return "finished", DONE
    if isinstance(error, RunStopped | KeyboardInterrupt):
        return "stopped", STOPPED
    return "failed", WRONG_USAGE if isinstance(error, UserError) else FAILED


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # the process exists and belongs to another user
        return True
    return pid > 0


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
