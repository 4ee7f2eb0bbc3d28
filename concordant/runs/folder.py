"""The folder a run writes: the interface between training, the doctor, the report and the studio.

``runs/names.py`` says what each file is. A whole file appears at once or not at all. A line of a ``.jsonl`` file is
with the system when its call returns, so that it outlives the process, and on the disk with the next checkpoint.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from concordant.config.yaml_io import dump_yaml
from concordant.core.errors import RunFailed, RunStopped, UserError
from concordant.runs.atomic import recover, sync, whole_folder, write_text
from concordant.runs.inputs import Inputs, refused, rounded
from concordant.runs.lock import FolderLock
from concordant.runs.logs import json_line
from concordant.runs.names import CHECKPOINTS, CONFIG, EVENTS, METRICS, MODEL, SAMPLES, TENSORBOARD
from concordant.runs.status import StatusWriter

_LOGS = (METRICS, SAMPLES, EVENTS)
_RESULTS = (MODEL, CHECKPOINTS, TENSORBOARD)


class RunFolder:
    """Makes and locks ``path``; a context manager that unlocks it.

    A folder that already holds a run is refused, so that no result is lost to a repeated command; with ``resume`` it is
    continued (``rewind`` then cuts the logs back to the checkpoint), with ``may_differ`` even where the run's
    ``inputs`` have changed.
    """

    def __init__(self, path: str | Path, resume: bool = False, may_differ: bool = False) -> None:
        self.path, self.resume, self.may_differ = Path(path), resume, may_differ
        self.inputs = Inputs()
        self.config: Mapping[str, Any] = {}
        try:
            if self.path.exists() and not self.path.is_dir():
                raise UserError(f"{self.path} is a file; expected a folder to write the run to")
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = FolderLock(self.path)
        except OSError as problem:
            raise UserError(f"cannot write to {self.path}: {problem.strerror}") from None
        if not resume and self.holds_a_run:
            self.close()
            way_out = "continue it with --resume auto, remove it, or choose another --output"
            raise UserError(f"{self.path} already holds a run; {way_out}")
        recover(self.model)
        self.status = StatusWriter(self.path)

    @property
    def holds_a_run(self) -> bool:
        logged = any(_size(self.path / name) > 0 for name in (METRICS, SAMPLES))
        return logged or any((self.path / x).exists() for x in _RESULTS)

    @property
    def name(self) -> str:
        """What progress lines call the run."""
        return self.path.resolve().name

    @property
    def checkpoints(self) -> Path:
        return self.path / CHECKPOINTS

    @property
    def model(self) -> Path:
        return self.path / MODEL

    @property
    def tensorboard(self) -> Path:
        return self.path / TENSORBOARD

    def set_config(self, config: Mapping[str, Any]) -> None:
        """``config``: the resolved mapping with its verb, as ``config.parse.to_mapping`` gives it. Written at once for
        a new run; a run that goes on writes it once it knows that it may (``write_config``)."""
        self.config = config
        self.status.update("preparing", verb=str(config.get("verb", "")))
        if not (self.path / CONFIG).exists() or not self.resume:
            self.write_config()

    def write_config(self) -> None:
        try:
            if self.config:
                write_text(self.path / CONFIG, dump_yaml(self.config))
        except OSError as problem:
            raise RunFailed(f"cannot write {self.path / CONFIG}: {problem.strerror}; make room there") from None

    def changes_since(self, before: Inputs, source: str) -> dict[str, list[str]]:
        """What is different now, by what it means. UserError where it makes another run, unless that was asked for."""
        other = refused(before, self.inputs)
        if other and not self.may_differ:
            listed = "\n  ".join(other)
            way_out = "put them back, or go on with the new ones by --resume force"
            raise UserError(f"{source} is of a run with other settings:\n  {listed}\n{way_out}")
        found = {"goes on with other settings": other, "the last bits may differ": rounded(before, self.inputs)}
        return {meaning: changes for meaning, changes in found.items() if changes}

    def note(self, changes: Mapping[str, list[str]]) -> list[str]:
        """Put ``changes_since`` into events.jsonl; returns a line for each meaning."""
        for meaning, lines in changes.items():
            self.log_event({"kind": "resume", "meaning": meaning, "changes": lines})
        return [f"{meaning}: {'; '.join(lines)}" for meaning, lines in changes.items()]

    def log_metrics(self, row: Mapping[str, Any]) -> None:
        self._append(METRICS, [row])

    def log_samples(self, rows: Iterable[Mapping[str, Any]]) -> None:
        self._append(SAMPLES, rows)

    def log_event(self, event: Mapping[str, Any]) -> None:
        self._append(EVENTS, [event])

    def offsets(self) -> dict[str, int]:
        """How long each log is, in bytes: part of a checkpoint. So much of it is then safe on disk."""
        for name in _LOGS:
            if (self.path / name).exists():
                sync(self.path / name)
        return {name: _size(self.path / name) for name in _LOGS}

    def rewind(self, offsets: Mapping[str, int]) -> None:
        """Forget what was logged after ``offsets`` was taken; a half-written last line goes too."""
        for name in _LOGS:
            if (self.path / name).exists():
                os.truncate(self.path / name, min(_size(self.path / name), offsets.get(name, 0)))

    def publish(self, name: str, write: Callable[[Path], None]) -> Path:
        """Let ``write`` fill a new folder, then put it in the place of ``name``."""
        with whole_folder(self.path / name) as new:
            write(new)
        return self.path / name

    def close(self) -> None:
        """Give the folder free. A run that ends otherwise than by leaving the ``with`` block reads as died."""
        self._lock.release()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        stopped = None
        if kind is KeyboardInterrupt:  # outside the loop, which saves first
            way_on = "continue with --resume auto" if self.holds_a_run else "the same command starts again"
            stopped = RunStopped(f"{self.path}: interrupted; {way_on}")
        self.status.end(stopped or error)
        self.close()
        if stopped:
            raise stopped from None

    def _append(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        lines = [json_line(row) for row in rows]
        try:
            if lines:
                with (self.path / name).open("a", encoding="utf-8") as file:
                    if _ends_torn(self.path / name):  # a kill cut the last line: the next one begins its own
                        file.write("\n")
                    file.writelines(lines)
        except OSError as problem:
            way_out = "make room there and go on with --resume auto"
            raise RunFailed(f"cannot write {self.path / name}: {problem.strerror}; {way_out}") from None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _ends_torn(path: Path) -> bool:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 1, 0))
        return size > 0 and file.read(1) != b"\n"
