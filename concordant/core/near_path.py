"""The file or folder nearest to a path that does not exist."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from pathlib import Path

from concordant.core.visible import visible

CUTOFF = 0.6  # of difflib: names that share fewer characters are not near


def nearest_path(path: Path, wanted: Callable[[Path], bool] = Path.exists, cutoff: float = CUTOFF) -> str:
    """' Did you mean "runs/sft/model"?' with the nearest path that is ``wanted``, or '' if there is none.

    Each part of the path that does not exist is replaced by the entry of its folder with the nearest name. The text of
    the user's path is kept otherwise.
    """
    found = _nearest(path, wanted, cutoff)
    return f' Did you mean "{visible(str(found))}"?' if found else ""


def _nearest(path: Path, wanted: Callable[[Path], bool], cutoff: float) -> Path | None:
    place = Path(path.anchor)
    parts = path.relative_to(path.anchor).parts
    for i, part in enumerate(parts):
        is_last = i == len(parts) - 1
        try:
            if (place / part).is_dir() or (is_last and (place / part).exists()):
                place = place / part
                continue
            names = [e.name for e in place.iterdir() if (wanted(e) if is_last else e.is_dir())]
        except OSError:  # a name that no disk can hold, or a folder that may not be read
            return None
        near = difflib.get_close_matches(part, names, n=1, cutoff=cutoff)
        if not near:
            return None
        place = place / near[0]
    return place if place != path and wanted(place) else None


def what_it_is(path: Path) -> str:
    """What stands under a name that is neither a file nor a folder: a link to nothing, a pipe, a device."""
    if path.is_symlink() and not path.exists():
        return f"a link to {visible(os.readlink(path))}, which is not there"
    return "a pipe" if path.is_fifo() else "a device or a socket"


SHOWN = 6  # entries of a folder that are listed


def entries_beside(path: Path) -> str:
    """' The folder "runs" here holds dpo, sft.' where the folder of ``path`` is there and ``path`` is not; else ''."""
    folder = path.parent
    try:
        names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError:
        return ""
    if folder == Path() or not names:
        return ""
    more = ", …" if len(names) > SHOWN else ""
    return f' The folder "{visible(str(folder))}" here holds {visible(", ".join(names[:SHOWN]))}{more}.'
