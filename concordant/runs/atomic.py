"""Files and folders that are whole or not there: written under another name on the same disk, then renamed.

Everything that replaces a file or a folder uses one of these functions. A process may be killed anywhere: a reader
then finds the old contents or the new ones, never a mixture. Temporary names begin with a dot.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


def write_text(path: Path, text: str, durable: bool = True) -> None:
    """Replace the file ``path`` by ``text``. See ``write_bytes``."""
    write_bytes(path, text.encode("utf-8"), durable)


def write_bytes(path: Path, data: bytes, durable: bool = True) -> None:
    """Replace the file ``path`` by ``data`` in one go.

    ``durable``: the file survives a power cut once the call has returned. Without ``durable`` the file survives only
    the end of the process, which costs no wait for the disk.
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
    """Replace files of ``folder`` that mean something only together; other files there stay.

    The last file of ``files`` is the seal: the old one is removed first and the new one arrives last. So whenever the
    process dies, a folder that has its seal has files that belong together.
    """
    folder.mkdir(parents=True, exist_ok=True)
    staged: dict[str, Path] = {}
    try:
        for name, data in files.items():  # all of them before any is replaced: a full disk costs nothing
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
    """A new folder beside ``path`` to write into. At the end it takes the name ``path``, and what was there goes.

    When the block raises, ``path`` stays as it was. Two renames are needed where ``path`` exists; a kill between the
    two leaves no ``path``, and ``recover`` puts the old folder back.
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
    """Put the old folder ``path`` back where a kill has left none, and remove what a killed write has left beside."""
    new, old = _beside(path)
    if os.path.lexists(old) and not os.path.lexists(path):
        os.rename(old, path)
    for leftover in (new, old):
        _remove(leftover)


def _remove(path: Path) -> None:
    """Remove a folder and what is in it; of a link, the link alone."""
    if path.is_symlink():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


def sync(path: Path) -> None:
    """Wait until the file is on the disk; of a folder, until its renames are."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def temporary_name(name: str) -> str:
    """What ``write_bytes`` calls a file of that name until it is whole."""
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
