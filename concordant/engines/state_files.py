"""Writes a role's state to a folder: tensors to ``state.safetensors``, plain values to ``state.json``, no pickle.

If several ranks hold parts of the tensors, each writes its own file, such as ``state-1-of-4.safetensors``. A part
is some rows of a tensor, one after another by rank. So a state can be read by another number of ranks.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from concordant.core import save_points

TENSORS, VALUES = "state.safetensors", "state.json"
_TAGS = ("$tensor", "$tuple", "$items")  # keys that mark a tensor, a tuple and a dict with other keys than text


def write_state(folder: Path, state: Mapping[str, Any], part: int = 0, parts: int = 1) -> None:
    """Write ``state`` into ``folder``. It holds tensors and plain values in nested dicts, lists and tuples.

    Tensors are not copied, so nothing may change them during the call. Raises OSError if the disk is full, and
    TypeError for a value of another kind. With ``parts`` above 1, every tensor that has a dimension is part number
    ``part`` of a larger one; the other values must be the same in all parts.
    """
    packer = _Packer()
    values = packer.encode(state, "state")
    try:
        save_file(packer.tensors, folder / (TENSORS if parts == 1 else f"state-{part + 1}-of-{parts}.safetensors"))
    except SafetensorError as problem:  # safetensors raises this error when the disk is full
        raise OSError(str(problem)) from problem
    save_points.at("tensors")
    if part == 0:
        (folder / VALUES).write_text(json.dumps(values), encoding="utf-8")
    save_points.at("values")


def read_state(folder: Path, rows_of: Callable[[int], slice] | None = None) -> dict[str, Any]:
    """Read the state that ``write_state`` wrote. Tensors are on the CPU.

    ``rows_of`` says which rows of a tensor with so many rows are wanted; nothing else is then read. None: all rows.
    """
    found = sorted(folder.glob("state-*-of-*.safetensors"), key=lambda file: int(file.name.split("-")[1]))
    with ExitStack() as stack:
        files = [stack.enter_context(safe_open(file, "pt")) for file in found or [folder / TENSORS]]
        tensors = {name: _rows(files, name, rows_of) for name in files[0].keys()}  # noqa: SIM118 (not a mapping)
    return _decode(json.loads((folder / VALUES).read_text(encoding="utf-8")), tensors)


def _rows(files: Sequence[Any], name: str, rows_of: Callable[[int], slice] | None) -> Tensor:
    """The wanted rows of a tensor whose parts are in ``files``."""
    parts = [file.get_slice(name) for file in files]
    if not parts[0].get_shape() or (len(files) == 1 and rows_of is None):
        return files[0].get_tensor(name)
    sizes = [part.get_shape()[0] for part in parts]
    wanted = rows_of(sum(sizes)) if rows_of else slice(0, sum(sizes))
    pieces: list[Tensor] = []
    before = 0
    for part, size in zip(parts, sizes, strict=True):
        start, stop = min(max(wanted.start - before, 0), size), min(wanted.stop - before, size)
        if start < stop or not pieces:  # the first piece may be empty, but has the right dtype and number of columns
            pieces.append(part[start : max(start, stop)])
        before += size
    return torch.cat(pieces) if len(pieces) > 1 else pieces[0]


class _Packer:
    """Replaces the tensors of a state by names and collects them. A tensor that occurs twice is stored once."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._name_of: dict[tuple[Any, ...], str] = {}
        self._storages: set[int] = set()

    def encode(self, value: Any, where: str) -> Any:
        """``value`` as JSON. ``where`` is its path in the state, used for names and errors."""
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
        if is_part:  # safetensors refuses a view of a larger storage
            tensor = tensor.clone()
        self._storages.add(tensor.untyped_storage().data_ptr())
        name = f"{len(self.tensors)}:{where}"  # the number distinguishes the key "a.b" from "b" inside "a"
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
