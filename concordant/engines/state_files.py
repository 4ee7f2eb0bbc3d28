"""How a role keeps its state in a folder: tensors in ``state.safetensors``, all else in ``state.json``. No pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from concordant.core import save_points

TENSORS, VALUES = "state.safetensors", "state.json"
_TAGS = ("$tensor", "$tuple", "$items")  # how JSON says what it has no word for


def write_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write ``state``, nested dicts, lists and tuples of tensors and plain values, into ``folder``.

    Tensors are not copied: nothing may change them meanwhile. Raises OSError when the disk is full, and TypeError for
    what is neither a tensor nor a plain value.
    """
    packer = _Packer()
    values = packer.encode(state, "state")
    try:
        save_file(packer.tensors, folder / TENSORS)
    except SafetensorError as problem:  # its words for a full disk
        raise OSError(str(problem)) from problem
    save_points.at("tensors")
    (folder / VALUES).write_text(json.dumps(values), encoding="utf-8")
    save_points.at("values")


def read_state(folder: Path) -> dict[str, Any]:
    """What ``write_state`` wrote, tensors on the CPU."""
    tensors = load_file(folder / TENSORS)
    return _decode(json.loads((folder / VALUES).read_text(encoding="utf-8")), tensors)


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
