"""Where a verb may write: not over data, not into a model, and not where the next command would read it as data."""

from __future__ import annotations

import os
from pathlib import Path

from concordant.core.errors import UserError
from concordant.data.files import is_data_file
from concordant.data.folders import is_model, is_prepared


def check_output_folder(output: str, data: str) -> None:
    """UserError where the folder ``output`` holds prepared data, is a model, or is the folder of ``data``; and where it
    is the folder in which the user works, or one above it, because the run's files would stand among the user's own.
    """
    folder = Path(output).expanduser()
    if not os.path.isdir(folder):
        return
    what = ""
    if is_prepared(folder):
        what = "holds prepared data"
    elif is_model(folder):
        what = "is a model"
    elif _is_same(folder, Path(data).expanduser()):
        what = "is the data that is read"
    elif Path.cwd().is_relative_to(folder.resolve()):
        what = "has the files you work with, among which a run's files would be lost"
    if what:
        raise UserError(f"{output} {what}; give another --output")


def check_output_file(output: str, data: str) -> None:
    """UserError where the file ``output`` is ``data``, or would be data of the folder ``data`` from now on."""
    file, read = Path(output).expanduser().absolute(), Path(data).expanduser().absolute()
    if not data or not os.path.exists(read):
        return
    if _is_same(file, read):
        raise UserError(f"{output} is the data that is read; give another --output")
    if os.path.isdir(read) and is_data_file(file) and file.resolve().is_relative_to(read.resolve()):
        raise UserError(f"{output} is in the data that is read; give another --output")


def _is_same(a: Path, b: Path) -> bool:
    """Whether both are one file or folder. A name that no disk can hold is no file; other checks say so."""
    return os.path.exists(a) and os.path.exists(b) and os.path.samefile(a, b)
