"""Identifies the inputs of a run: files by their contents, code by its version and source."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

_HASHED_BYTES = 64 * 2**20  # larger files are identified by size and time, because hashing 10 GB takes a minute
_ENTRIES = 10_000  # the most files of a folder that are looked at


def identity(path: Path) -> Any:
    """A value that identifies the contents of a file or folder."""
    if not path.is_dir():
        return _content(path) if path.stat().st_size <= _HASHED_BYTES else _stamp(path)
    entries = sorted(entry for entry in path.rglob("*") if entry.is_file())[:_ENTRIES]
    is_small = sum(entry.stat().st_size for entry in entries) <= _HASHED_BYTES
    return [[str(entry.relative_to(path)), _content(entry) if is_small else _stamp(entry)] for entry in entries]


def on_disk(paths: Iterable[str]) -> list[str]:
    """The paths among ``paths`` that exist, sorted, each once."""
    return sorted({path for path in paths if os.path.exists(path)})  # False for a text too long for a path


@functools.cache
def code_version() -> str:
    """The package's version and a hash of its source, so that results of older code are made again."""
    root = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return f"{package_version()} {digest.hexdigest()}"


def package_version() -> str:
    try:
        return metadata.version("concordant")
    except metadata.PackageNotFoundError:  # run from a source tree that was never installed
        return "source"


def _content(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]
