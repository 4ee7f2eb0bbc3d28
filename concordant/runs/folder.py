"""The folder that a run writes. Training, the doctor and the report exchange data only through this folder.

``runs/names.py`` lists the files. A file that is replaced is complete or does not appear. A line of a ``.jsonl`` file
survives the end of the process after the call that logs the line, and a power cut after the next checkpoint.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from concordant.config.yaml_io import dump_yaml
from concordant.core.alive import heard_by
from concordant.core.errors import RunFailed, RunStopped, UserError
from concordant.runs.atomic import discard, recover, sync, whole_folder, write_text
from concordant.runs.inputs import Inputs, refused, rounded
from concordant.runs.lock import FolderLock
from concordant.runs.logs import json_line
from concordant.runs.names import ADAPTER, CHECKPOINTS, CONFIG, EVENTS, METRICS, MODEL, SAMPLES, TENSORBOARD
from concordant.runs.status import StatusWriter

_LOGS = (METRICS, SAMPLES, EVENTS)
_EXPORTS = (MODEL, ADAPTER)
_RESULTS = (*_EXPORTS, CHECKPOINTS, TENSORBOARD)


class RunFolder:
    """Makes and locks the folder ``path``. As a context manager, it unlocks the folder at the end.

    A folder that already holds a run is refused, so that a repeated command does not destroy a result. With ``resume``
    the run is continued, and ``rewind`` shortens the logs to the checkpoint. With ``may_differ`` the run is continued
    even if its ``inputs`` have changed.
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
        for name in _EXPORTS:
            recover(self.path / name)
        self.status = StatusWriter(self.path)

    @property
    def holds_a_run(self) -> bool:
        logged = any(_size(self.path / name) > 0 for name in (METRICS, SAMPLES))
        return logged or any((self.path / x).exists() for x in _RESULTS)

    @property
    def name(self) -> str:
        """The name of the run in progress lines."""
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
        """Set the config: the resolved mapping with its verb, as ``config.parse.to_mapping`` gives it.

        A new run writes the config at once. A resumed run writes it later (``write_config``), after its inputs were
        compared.
        """
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
        """The changed inputs, grouped by their consequence.

        Raises:
            UserError: a change makes it a different run, and ``may_differ`` is off.
        """
        other = refused(before, self.inputs)
        if other and not self.may_differ:
            listed = "\n  ".join(other)
            way_out = "change them back, or continue with the new ones by --resume force"
            raise UserError(f"{source} belongs to a run with other settings:\n  {listed}\n{way_out}")
        found = {"continues with other settings": other, "the last bits may differ": rounded(before, self.inputs)}
        return {meaning: changes for meaning, changes in found.items() if changes}

    def note(self, changes: Mapping[str, list[str]]) -> list[str]:
        """Write the result of ``changes_since`` to events.jsonl. Returns a line for each consequence."""
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
        """Sync the logs to the disk and return their lengths in bytes, which are part of a checkpoint."""
        for name in _LOGS:
            if (self.path / name).exists():
                sync(self.path / name)
        return {name: _size(self.path / name) for name in _LOGS}

    def rewind(self, offsets: Mapping[str, int]) -> None:
        """Remove the lines that were logged after ``offsets`` were taken, and an incomplete last line."""
        for name in _LOGS:
            if (self.path / name).exists():
                os.truncate(self.path / name, min(_size(self.path / name), offsets.get(name, 0)))

    def publish(self, name: str, write: Callable[[Path], None]) -> Path:
        """Call ``write`` with a new folder, then put this folder in the place of ``name``."""
        with whole_folder(self.path / name) as new:
            write(new)
        return self.path / name

    def withdraw(self, names: Iterable[str]) -> None:
        """Remove the published folders ``names``, which this end of the run does not write again."""
        for name in names:
            discard(self.path / name)

    def close(self) -> None:
        """Unlock the folder. A run that calls this without leaving its ``with`` block is later reported as died."""
        self._lock.release()

    def __enter__(self) -> RunFolder:
        self._heard = heard_by(self.status.alive)
        self._heard.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._heard.__exit__(kind, error, at)
        stopped = None
        if kind is KeyboardInterrupt:  # raised only outside the loop; inside, the loop saves first
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
                with (self.path / name).open("a", encoding="utf-8", errors="backslashreplace") as file:
                    if _ends_torn(self.path / name):  # a kill left an incomplete line, so the next row needs a new line
                        file.write("\n")
                    file.writelines(lines)
        except OSError as problem:
            way_out = "make room there and continue with --resume auto"
            raise RunFailed(f"cannot write {self.path / name}: {problem.strerror}; {way_out}") from None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _ends_torn(path: Path) -> bool:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 1, 0))
        return size > 0 and file.read(1) != b"\n"
