"""Writes files and folders under a temporary name on the same disk and then renames them.

One of these functions writes every file and folder that is replaced. So if the process is killed at any moment, a
reader finds the old contents or the new contents, and never a mixture. Temporary names begin with a dot.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


def write_text(path: Path, text: str, durable: bool = True) -> None:
    """Replace the file ``path`` by ``text``. See ``write_bytes``.

    Bytes of a file's name that are no text stand in ``text`` as half surrogate pairs. They are written as escapes,
    which JSON and YAML read back.
    """
    write_bytes(path, text.encode("utf-8", "backslashreplace"), durable)


def write_bytes(path: Path, data: bytes, durable: bool = True) -> None:
    """Replace the file ``path`` by ``data`` in one atomic step.

    With ``durable`` the file survives a power cut after the call. Without ``durable`` the file survives the end of the
    process but perhaps not a power cut, and the call does not wait for the disk.
    """
    temporary = _stage(path, data, durable)
    try:
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        sync(path.parent)


def write_together(folder: Path, files: Mapping[str, bytes]) -> None:
    """Replace ``files`` in ``folder`` that belong together. Other files of the folder stay.

    The last file in ``files`` marks the others as complete: its old version is removed first, and its new version is
    put in place last. So whenever the process dies, if this file is there, all files belong together.
    """
    folder.mkdir(parents=True, exist_ok=True)
    staged: dict[str, Path] = {}
    try:
        for name, data in files.items():  # write all before replacing any, so that a full disk changes no file
            staged[name] = _stage(folder / name, data, durable=True)
        *_, seal = files
        (folder / seal).unlink(missing_ok=True)
        for name, temporary in staged.items():
            os.replace(temporary, folder / name)
        sync(folder)
    finally:
        for temporary in staged.values():
            temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Give the block a new folder to write into, which replaces ``path`` at the end of the block.

    If the block raises an error, ``path`` is unchanged. If ``path`` exists, two renames are needed. A kill between them
    leaves no ``path``; ``recover`` then puts the old folder back.
    """
    path = Path(path)
    recover(path)
    new, old = _beside(path)
    new.mkdir(parents=True)
    try:
        yield new
        for entry in (*new.rglob("*"), new):
            sync(entry)
        if os.path.lexists(path):  # a link is replaced, and what it leads to stays
            os.rename(path, old)
        try:
            os.rename(new, path)
        except OSError:
            recover(path)
            raise
        sync(path.parent)
    except BaseException:
        _remove(new)
        raise
    _remove(old)


def recover(path: Path) -> None:
    """Put the old folder ``path`` back if a kill left none, and remove temporary folders of a killed write."""
    new, old = _beside(path)
    if os.path.lexists(old) and not os.path.lexists(path):
        os.rename(old, path)
    for leftover in (new, old):
        _remove(leftover)


def discard(path: Path) -> None:
    """Remove the folder ``path``, whole or not at all."""
    new, _ = _beside(path)
    _remove(new)
    if os.path.lexists(path):
        os.rename(path, new)  # under this name a kill leaves it to the next ``recover``
        _remove(new)


def _remove(path: Path) -> None:
    """Remove a folder and what is in it; of a link, the link alone."""
    if path.is_symlink():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


def sync(path: Path) -> None:
    """Wait until the file is on the disk. For a folder, wait until its renames are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def temporary_name(name: str) -> str:
    """The name of a file while ``write_bytes`` writes it."""
    return f".{name}.tmp"


def _stage(path: Path, data: bytes, durable: bool) -> Path:
    temporary = path.with_name(temporary_name(path.name))
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _beside(path: Path) -> tuple[Path, Path]:
    return path.with_name(f".{path.name}.new"), path.with_name(f".{path.name}.old")
