"""Checkpoints that are whole or not there: tensors in safetensors, the rest in JSON, hashes of both in a manifest.

    checkpoints/step-000100/{state.safetensors, state.json, manifest.json}

A save writes to a temporary folder on the same file system, syncs it, renames it; only then do old ones go. No pickle.
The manifest also says what the state came from (``about``), to be read without reading the state.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from concordant.core.errors import UserError
from concordant.runs.atomic import sync

FORMAT = 2
_TENSORS, _VALUES, _MANIFEST = "state.safetensors", "state.json", "manifest.json"
_NAME = re.compile(r"step-(\d{6,})")
_TAGS = ("$tensor", "$tuple", "$items")  # how JSON says what it has no word for
POINTS = ("begun", "tensors", "values", "manifest", "synced", "renamed", "hidden", "pruned")


def at(point: str) -> None:
    """One of ``POINTS`` of a save has been reached: a process may die here, and tests see to it that it does."""


def save(
    folder: Path, step: int, state: Mapping[str, Any], keep_last: int = 2, about: Mapping[str, Any] | None = None
) -> Path:
    """Write ``state`` (nested dicts, lists, tuples of tensors and plain values) as ``folder/step-…``; prune older ones.

    Tensors are not copied: nothing may change them meanwhile. Raises OSError when the disk is full; what was there
    before is then still there.
    """
    final = folder / f"step-{step:06d}"
    temporary = folder / f".{final.name}.tmp"
    _remove_leftovers(folder)
    temporary.mkdir(parents=True)
    at("begun")
    try:
        packer = _Packer()
        values = packer.encode(state, "state")
        save_file(packer.tensors, temporary / _TENSORS)
        at("tensors")
        (temporary / _VALUES).write_text(json.dumps(values), encoding="utf-8")
        at("values")
        files = {name: _identity(temporary / name) for name in (_TENSORS, _VALUES)}
        (temporary / _MANIFEST).write_text(_render_manifest(step, files, about or {}), encoding="utf-8")
        at("manifest")
        for name in (_TENSORS, _VALUES, _MANIFEST):
            sync(temporary / name)
        sync(temporary)
        at("synced")
        if final.exists():  # the same step again
            shutil.rmtree(final)
        os.rename(temporary, final)
        sync(folder)
        at("renamed")
    except (OSError, SafetensorError, TypeError) as problem:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(problem, SafetensorError):  # its words for a full disk
            raise OSError(str(problem)) from problem
        raise
    for old in _all(folder)[keep_last:]:
        doomed = old.with_name(f".{old.name}.tmp")  # out of sight first: a kill in between leaves no half checkpoint
        os.rename(old, doomed)
        at("hidden")
        shutil.rmtree(doomed)
        at("pruned")
    return final


def newest_valid(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint whose every byte is as it was written, and what is wrong with newer ones."""
    problems: list[str] = []
    for path in _all(folder):
        problem = fault(path)
        if problem is None:
            return path, problems
        problems.append(problem)
    return None, problems


def set_aside(folder: Path, after: int) -> None:
    """Rename checkpoints of later steps, which were found damaged: they must not count among those that are kept."""
    for path in _all(folder):
        if step_of(path) > after:
            aside = path.with_name(f"damaged-{path.name}")
            shutil.rmtree(aside, ignore_errors=True)
            os.rename(path, aside)


def load(path: Path) -> dict[str, Any]:
    """The state that ``save`` wrote, tensors on the CPU. A damaged checkpoint is a UserError that names the file."""
    problem = fault(path)
    if problem:
        raise UserError(problem)
    tensors = load_file(path / _TENSORS)
    return _decode(json.loads((path / _VALUES).read_text(encoding="utf-8")), tensors)


def read_about(path: Path) -> dict[str, Any]:
    """What ``save`` was told the state came from; of a checkpoint without fault."""
    return json.loads((path / _MANIFEST).read_text(encoding="utf-8"))["about"]


def fault(path: Path) -> str | None:
    """What is wrong with the checkpoint at ``path``, naming the file; None when all hashes hold."""
    manifest = path / _MANIFEST
    try:
        text = manifest.read_text(encoding="utf-8")
        content = json.loads(text)
        if content["format"] != FORMAT:
            return f"{manifest} is of format {content['format']}; this version reads {FORMAT}"
        if text != _render_manifest(content["step"], content["files"], content["about"]):
            return f"{manifest} is damaged"
        for name, written in content["files"].items():
            if _identity(path / name) != written:
                return f"{path / name} is not as it was written (size or hash differs)"
    except FileNotFoundError as problem:
        return f"{problem.filename} is missing"
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):
        return f"{manifest} cannot be read"
    return None


def step_of(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise UserError(f"{path} is not a checkpoint; expected a folder named step-000100")
    return int(match[1])


def _all(folder: Path) -> list[Path]:
    """Newest first; folders of half-finished saves start with a dot and are not among them."""
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(found, key=step_of, reverse=True)


def _remove_leftovers(folder: Path) -> None:
    for path in folder.glob(".step-*.tmp"):
        shutil.rmtree(path)


def _identity(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"size": path.stat().st_size, "sha256": digest}


def _render_manifest(step: int, files: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """The manifest's only valid text: it carries a hash of itself."""
    body: dict[str, Any] = {"format": FORMAT, "step": step, "files": files, "about": about}
    body["sha256"] = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return json.dumps(body, sort_keys=True, indent=1) + "\n"


class _Packer:
    """Takes tensors out of a state under names. One that occurs twice (tied weights) is stored once."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._name_of: dict[tuple[Any, ...], str] = {}
        self._storages: set[int] = set()

    def encode(self, value: Any, where: str) -> Any:
        """JSON of ``value``; ``where`` is the path to it, for names and errors."""
        if isinstance(value, Tensor):
            return {"$tensor": self._store(value, where)}
        if isinstance(value, Mapping):
            if all(isinstance(key, str) and key not in _TAGS for key in value):
                return {key: self.encode(item, f"{where}.{key}") for key, item in value.items()}
            return {"$items": [self._item(key, item, where) for key, item in value.items()]}
        if isinstance(value, list | tuple):
            listed = [self.encode(item, f"{where}.{i}") for i, item in enumerate(value)]
            return {"$tuple": listed} if isinstance(value, tuple) else listed
        if value is None or isinstance(value, str | bool | int | float):
            return value
        raise TypeError(f"{where} is a {type(value).__name__}; a checkpoint holds tensors and plain values")

    def _item(self, key: Any, item: Any, where: str) -> list[Any]:
        if not isinstance(key, str | bool | int | float):
            raise TypeError(f"{where} has a {type(key).__name__} as a key; a checkpoint's keys are text or numbers")
        return [key, self.encode(item, f"{where}.{key}")]

    def _store(self, value: Tensor, where: str) -> str:
        same = (value.device, value.data_ptr(), value.dtype, tuple(value.shape), value.stride())
        if value.numel() and same in self._name_of:
            return self._name_of[same]
        tensor = value.detach().to("cpu").contiguous()
        storage = tensor.untyped_storage()
        is_part = storage.nbytes() != tensor.numel() * tensor.element_size() or storage.data_ptr() in self._storages
        if is_part:  # safetensors stores whole storages, each once
            tensor = tensor.clone()
        self._storages.add(tensor.untyped_storage().data_ptr())
        name = f"{len(self.tensors)}:{where}"  # the number keeps "a.b" apart from "b" inside "a"
        self.tensors[name] = tensor
        self._name_of[same] = name
        return name


def _decode(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "$tensor" in value:
        return tensors[value["$tensor"]]
    if "$tuple" in value:
        return tuple(_decode(item, tensors) for item in value["$tuple"])
    if "$items" in value:
        return {key: _decode(item, tensors) for key, item in value["$items"]}
    return {key: _decode(item, tensors) for key, item in value.items()}
