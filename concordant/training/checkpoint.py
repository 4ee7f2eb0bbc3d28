"""Checkpoints, which are complete or do not exist: a folder for each role and a manifest with a hash of every file.

    checkpoints/step-000100/{manifest.json, loop.json, policy/, critic/ …}

Each role writes its own folder. ``loop.json`` has the plain numbers of the loop and the algorithm. A save writes to a
temporary folder on the same file system, syncs it and renames it, and only then removes old checkpoints. The manifest
also records the inputs of the run (``about``), so that they can be read without reading the state.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from concordant.core import save_points
from concordant.core.errors import UserError
from concordant.runs.atomic import sync
from concordant.runs.identity import package_version

FORMAT = 3
LOOP = "loop.json"
_MANIFEST = "manifest.json"
_NAME = re.compile(r"step-(\d{6,})")


def save(
    folder: Path,
    step: int,
    roles: Mapping[str, Callable[[Path], None]],
    numbers: Mapping[str, Any],
    keep_last: int = 2,
    about: Mapping[str, Any] | None = None,
) -> Path:
    """Write ``folder/step-…`` and remove older checkpoints.

    Each of ``roles`` fills the empty folder that it is given. ``numbers`` holds values that JSON can hold. Raises
    OSError if the disk is full; older checkpoints are then kept.
    """
    final = folder / f"step-{step:06d}"
    temporary = folder / f".{final.name}.tmp"
    _remove_leftovers(folder)
    temporary.mkdir(parents=True)
    save_points.at("begun")
    try:
        for name, write in roles.items():
            (temporary / name).mkdir()
            write(temporary / name)
            save_points.at("role")
        (temporary / LOOP).write_text(json.dumps(numbers), encoding="utf-8")
        save_points.at("loop")
        files = {str(path.relative_to(temporary)): _identity(path) for path in _files(temporary)}
        (temporary / _MANIFEST).write_text(_render_manifest(step, files, about or {}), encoding="utf-8")
        save_points.at("manifest")
        for path in sorted(temporary.rglob("*")):  # files and the roles' folders
            sync(path)
        sync(temporary)
        save_points.at("synced")
        if final.exists():  # the same step was saved before
            shutil.rmtree(final)
        os.rename(temporary, final)
        sync(folder)
        save_points.at("renamed")
    except (OSError, TypeError):
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    for old in _all(folder)[keep_last:]:
        doomed = old.with_name(f".{old.name}.tmp")  # hidden first, so that a kill leaves no half checkpoint
        os.rename(old, doomed)
        save_points.at("hidden")
        shutil.rmtree(doomed)
        save_points.at("pruned")
    return final


def newest_valid(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest undamaged checkpoint, and a sentence for each newer checkpoint that is damaged.

    Raises:
        UserError: another version of concordant wrote the checkpoint in another format.
    """
    problems: list[str] = []
    for path in _all(folder):
        problem = fault(path)
        if problem is None:
            return path, problems
        problems.append(problem)
    return None, problems


def set_aside(folder: Path, after: int) -> None:
    """Rename the damaged checkpoints of later steps, so that they do not count among the checkpoints to keep."""
    for path in _all(folder):
        if step_of(path) > after:
            aside = path.with_name(f"damaged-{path.name}")
            shutil.rmtree(aside, ignore_errors=True)
            os.rename(path, aside)


def load(path: Path) -> dict[str, Any]:
    """The ``numbers`` that ``save`` wrote. Every file is checked, so that a role can then read its folder in ``path``.

    Raises:
        UserError: the checkpoint is damaged; the message names the file.
    """
    problem = fault(path)
    if problem:
        raise UserError(problem)
    return json.loads((path / LOOP).read_text(encoding="utf-8"))


def read_about(path: Path) -> dict[str, Any]:
    """The ``about`` of an undamaged checkpoint, as it was given to ``save``."""
    return json.loads((path / _MANIFEST).read_text(encoding="utf-8"))["about"]


def fault(path: Path) -> str | None:
    """A sentence that names a damaged file of the checkpoint at ``path``; None if all hashes are right.

    Raises:
        UserError: another version of concordant wrote the checkpoint in another format.
    """
    manifest = path / _MANIFEST
    try:
        text = manifest.read_text(encoding="utf-8")
        content = json.loads(text)
        if text != _render_manifest(content["step"], content["files"], content["about"], content["format"]):
            return f"{manifest} is damaged"
        if content["format"] != FORMAT:
            raise _of_another_version(path, content)
        for name, written in content["files"].items():
            if _identity(path / name) != written:
                return f"{path / name} is not as it was written (size or hash differs)"
    except FileNotFoundError as problem:
        return f"{problem.filename} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return f"{manifest} cannot be read"
    return None


def _of_another_version(path: Path, content: Mapping[str, Any]) -> UserError:
    by = content["about"].get("environment", {}).get("concordant", "of another version")
    return UserError(
        f"{path} was written by concordant {by} in checkpoint format {content['format']}, and this is concordant "
        f"{package_version()}, which reads format {FORMAT}. Finish the run with the version that began it, or start "
        f"again from step 0: remove {path.parent.parent}, or choose another --output"
    )


def step_of(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise UserError(f"{path} is not a checkpoint; expected a folder named step-000100")
    return int(match[1])


def _all(folder: Path) -> list[Path]:
    """All checkpoints, newest first. Folders of unfinished saves start with a dot and are left out."""
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(found, key=step_of, reverse=True)


def _remove_leftovers(folder: Path) -> None:
    for path in folder.glob(".step-*.tmp"):
        shutil.rmtree(path)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _identity(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"size": path.stat().st_size, "sha256": digest}


def _render_manifest(step: int, files: Mapping[str, Any], about: Mapping[str, Any], made_as: int = FORMAT) -> str:
    """The text of the manifest, which includes a hash of the rest of the text."""
    body: dict[str, Any] = {"format": made_as, "step": step, "files": files, "about": about}
    body["sha256"] = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return json.dumps(body, sort_keys=True, indent=1) + "\n"
