"""Whether a result can be written, found out before the work that would be lost."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from concordant.core.errors import UserError
from concordant.runs.atomic import temporary_name

_TRIAL = "concordant-trial"  # the name, as a temporary one, of what is written to see whether it can be


def check_file(path: str | Path) -> None:
    """Make the folder that ``path`` will stand in. UserError where no file can be written under that name."""
    path = Path(path)
    with _said_of(path):
        if path.is_dir():
            raise UserError(f"{path} is a folder; expected the name of a file to write to")
        path.parent.mkdir(parents=True, exist_ok=True)
        _try(path.with_name(temporary_name(path.name)))


def check_folder(path: str | Path) -> None:
    """UserError where ``path`` is a file, or where nothing can be written in it or beside it. Makes its parents."""
    path = Path(path)
    with _said_of(path):
        if path.exists() and not path.is_dir():
            raise UserError(f"{path} is a file; expected a folder to write to, or a name that is not taken")
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.absolute().with_name(f".{path.absolute().name}.new")  # as a folder is that replaces another
        if not beside.exists():
            beside.mkdir()
            beside.rmdir()
        if path.is_dir():
            _try(path / temporary_name(_TRIAL))


def _try(temporary: Path) -> None:
    with temporary.open("wb") as file:
        file.write(b"\n")
    temporary.unlink()


@contextlib.contextmanager
def _said_of(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as problem:
        raise UserError(f"cannot write to {path}: {problem.strerror or problem}") from None
