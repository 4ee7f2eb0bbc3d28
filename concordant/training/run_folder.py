"""The folder a run writes: the interface between training, the doctor, the report and the studio.

    config.yaml  metrics.jsonl  samples.jsonl  events.jsonl  checkpoints/  model/  tensorboard/

A whole file appears at once or not at all. A line of a ``.jsonl`` file is with the system when its call returns, so
that it outlives the process, and on the disk with the next checkpoint.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from concordant.config.yaml_io import dump_yaml
from concordant.core.errors import RunFailed, RunStopped, UserError
from concordant.training.inputs import Inputs, refused, rounded
from concordant.training.lock import FolderLock

METRICS, SAMPLES, EVENTS = "metrics.jsonl", "samples.jsonl", "events.jsonl"
CONFIG = "config.yaml"
_LOGS = (METRICS, SAMPLES, EVENTS)
_RESULTS = ("model", "checkpoints", "tensorboard")


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
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path} is a file; expected a folder to write the run to")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = FolderLock(self.path)
        except OSError as problem:
            raise UserError(f"cannot write to {self.path}: {problem.strerror}") from None
        if not resume and self.holds_a_run:
            self.close()
            way_out = "continue it with --resume auto, remove it, or choose another --output"
            raise UserError(f"{self.path} already holds a run; {way_out}")

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
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    def set_config(self, config: Mapping[str, Any]) -> None:
        """``config``: the resolved mapping with its verb, as ``config.parse.to_mapping`` gives it. Written at once for
        a new run; a run that goes on writes it once it knows that it may (``write_config``)."""
        self.config = config
        if not (self.path / CONFIG).exists() or not self.resume:
            self.write_config()

    def write_config(self) -> None:
        if self.config:
            write_text(self.path / CONFIG, dump_yaml(self.config))

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
                sync_file(self.path / name)
        return {name: _size(self.path / name) for name in _LOGS}

    def rewind(self, offsets: Mapping[str, int]) -> None:
        """Forget what was logged after ``offsets`` was taken; a half-written last line goes too."""
        for name in _LOGS:
            if (self.path / name).exists():
                os.truncate(self.path / name, min(_size(self.path / name), offsets.get(name, 0)))

    def publish(self, name: str, write: Callable[[Path], None]) -> Path:
        """Let ``write`` fill a new folder, then put it in the place of ``name``."""
        return publish_folder(self.path / name, write)

    def close(self) -> None:
        self._lock.release()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
        if kind is KeyboardInterrupt:  # outside the loop, which saves first
            way_on = "continue with --resume auto" if self.holds_a_run else "the same command starts again"
            raise RunStopped(f"{self.path}: interrupted; {way_on}") from None

    def _append(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        lines = [json_line(row) for row in rows]
        try:
            if lines:
                with (self.path / name).open("a", encoding="utf-8") as file:
                    file.writelines(lines)
        except OSError as problem:
            way_out = "make room there and go on with --resume auto"
            raise RunFailed(f"cannot write {self.path / name}: {problem.strerror}; {way_out}") from None


def json_line(row: Mapping[str, Any]) -> str:
    """One line of strict JSON. NaN and infinity, which JSON has no word for, become null."""
    return json.dumps(_finite(row), ensure_ascii=False, allow_nan=False) + "\n"


def json_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(map(json_line, rows))


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` by ``text`` in one go: whoever reads sees the old file or the new one."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)


def publish_folder(path: Path, write: Callable[[Path], None]) -> Path:
    """Fill a new folder beside ``path`` with ``write`` and then rename it to ``path``, whose old contents go."""
    temporary, old = path.with_name(f".{path.name}.tmp"), path.with_name(f".{path.name}.old")
    for leftover in (temporary, old):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary.mkdir(parents=True)
    write(temporary)
    for entry in (*temporary.rglob("*"), temporary):
        sync_file(entry)
    if path.exists():
        os.rename(path, old)
    os.rename(temporary, path)
    sync_folder(path.parent)
    shutil.rmtree(old, ignore_errors=True)
    return path


def sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


sync_folder = sync_file  # a rename is on disk when its folder is


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
