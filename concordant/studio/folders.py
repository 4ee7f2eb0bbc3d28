"""Finds run folders below the folder of runs, and refuses every path that leads out of it."""

from __future__ import annotations

import os
from pathlib import Path

from concordant.core.errors import UserError
from concordant.runs.names import (
    ADAPTER,
    CHECKPOINTS,
    CONFIG,
    CONTENTS,
    METRICS,
    MODEL,
    PIPELINE,
    SAMPLES,
    STATUS,
    TENSORBOARD,
)

_SIGNS = (STATUS, CONFIG, PIPELINE, METRICS)  # a folder with one of these files is a run
_FILES = tuple(name for name in CONTENTS if not name.endswith("/"))
_NO_RUNS_IN = {CHECKPOINTS, MODEL, ADAPTER, TENSORBOARD}
_DEPTH, _MOST = 4, 5_000  # folders below the folder of runs; folders that are looked at


class UnknownRun(UserError):
    """There is no such run, or the name leads out of the folder of runs."""


def run_names(runs: Path) -> list[str]:
    """The names of all runs: their paths from the folder of runs, in the order of the alphabet."""
    found: list[str] = []
    left = [(runs, 0)]
    looked_at = 0
    while left and looked_at < _MOST:
        folder, depth = left.pop()
        looked_at += 1
        try:
            entries = list(os.scandir(folder))
        except OSError:  # removed in the meantime, or not ours to read
            continue
        if depth and any(entry.name in _SIGNS for entry in entries):
            found.append(folder.relative_to(runs).as_posix())
        if depth < _DEPTH:
            left += [(Path(e.path), depth + 1) for e in entries if _may_hold_runs(e)]
    return sorted(name for name in found if name.isprintable() and _is_unicode(name))


def folder_of(runs: Path, name: str) -> Path:
    """The folder of the run ``name``.

    Raises:
        UnknownRun: no such run, or the folder or one of its files leads out of ``runs``.
    """
    refusal = UnknownRun(f'there is no run "{name[:200]}"')
    parts = name.split("/")
    if name.startswith("/") or any(part in ("", ".", "..") or part.startswith(".") for part in parts):
        raise refusal
    try:
        root = runs.resolve(strict=True)
        folder = (runs / name).resolve(strict=True)
        inside = folder.is_relative_to(root) and folder != root and folder.is_dir()
        is_run = inside and any((folder / sign).is_file() for sign in _SIGNS)
        if not is_run or not all((folder / file).resolve().is_relative_to(root) for file in _FILES):
            raise refusal
    except (OSError, ValueError, RuntimeError):  # a name too long; a NUL; links in a circle
        raise refusal from None
    return folder


def stamp(path: Path) -> tuple[int, int, int]:
    """What changes when a file changes: its inode, its size and its time; zeros without a file."""
    try:
        found = path.stat()
    except OSError:
        return (0, 0, 0)
    return (found.st_ino, found.st_size, found.st_mtime_ns)


def has_samples(folder: Path) -> bool:
    return stamp(folder / SAMPLES)[1] > 0


def _may_hold_runs(entry: os.DirEntry[str]) -> bool:
    if entry.name.startswith(".") or entry.name in _NO_RUNS_IN:
        return False
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False


def _is_unicode(name: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in name)
