"""The JSON files of a model folder: read with errors that name the file, and refused where they would run code.

A few keys make transformers fetch or import code that is not its own: a module of the folder or a hub (``auto_map``),
an attention or expert kernel of a hub, a backbone of a hub, the packages and kernels that unpack quantised weights. No
such key is followed without ``model.trust_remote_code``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from concordant.core.errors import UserError

# The files that transformers reads as objects; tokenizer.json is the tokenizers library's own.
OBJECTS = ("config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json")
_KERNELS = ("attn_implementation", "experts_implementation")  # also with an underscore before
# What these keys may name: code of transformers and PyTorch alone. For other names, such as flash_attention_2 or
# sonicmoe, transformers takes a kernel of a hub where the package of that name is not installed.
_OWN_KERNELS = {None, "", "eager", "sdpa", "flex_attention", "paged|eager", "batched_mm", "grouped_mm"}
_IMPORTS = (
    "auto_map",
    "kernel_config",
    "use_kernels",
    "use_pretrained_backbone",
    "use_timm_backbone",
    "custom_generate",
)
_LONGEST = 120  # characters of a value that an error shows


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file. UserError that names the file where it cannot be read or holds something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f'"{path}" cannot be read: {error.strerror}') from error
    except RecursionError as error:
        raise UserError(f'"{path}" is nested too deeply to be read') from error
    except ValueError as error:
        raise UserError(f'"{path}" is not readable JSON: {error}') from error
    if not isinstance(found, dict):
        raise UserError(f'"{path}" holds a {type(found).__name__}; expected a JSON object')
    return found


def read_objects(folder: Path) -> dict[str, dict[str, Any]]:
    """The objects of ``OBJECTS`` that the folder has, by file name."""
    present = (name for name in OBJECTS if (folder / name).is_symlink() or (folder / name).exists())
    return {name: read_object(folder / name) for name in present}


def read_index(path: Path) -> dict[str, str]:
    """The file of every weight, of an index beside several files of weights."""
    weight_map = read_object(path).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise UserError(f'"{path}" has no weight_map from names of weights to names of files')
    outside = sorted({shard for shard in weight_map.values() if Path(shard).name != shard})
    if outside:
        raise UserError(f'"{path}" names weights outside its folder ({outside[0]}): refused')
    return weight_map


def refuse_code(settings: Mapping[str, Any], where: str) -> None:
    """UserError that names the first key of ``settings``, sections included, that would run code."""
    for key, value in _walk(settings):
        name = key.rpartition(".")[2]
        if name == "auto_map" and value:
            raise UserError(
                f'"{where}" comes with Python code of its own ({_first_module(value)}), which is not run. '
                "If you trust its author, add --model.trust_remote_code true"
            )
        kernel = name.lstrip("_").removesuffix("_internal") in _KERNELS and not _is_own_kernel(value)
        if kernel or (name in _IMPORTS and value):
            raise UserError(
                f'"{where}" asks for code from elsewhere: {key} = {json.dumps(value, default=str)[:_LONGEST]}, which '
                "is not fetched. Remove the key or, if you trust its author, add --model.trust_remote_code true"
            )
        if name == "quantization_config" and value:
            method = value.get("quant_method") if isinstance(value, dict) else value
            raise UserError(
                f'"{where}" holds quantised weights ({key}: {str(method)[:_LONGEST]}). The code that unpacks them is '
                "another package's or a hub's. Take the model with its full weights or, if you trust its author, add "
                "--model.trust_remote_code true"
            )
        if name == "transformers_weights" and value and not _is_plain_weights(value):
            raise UserError(
                f'"{where}": {key} = {json.dumps(value)[:_LONGEST]}; expected a *.safetensors of its folder'
            )


def _is_own_kernel(value: object) -> bool:
    """Whether ``value``, a name or an object with a name for each part of the model, names no code from elsewhere."""
    named = value.values() if isinstance(value, dict) else [value]
    return all(isinstance(name, str | None) and name in _OWN_KERNELS for name in named)


def _is_plain_weights(value: object) -> bool:
    return isinstance(value, str) and Path(value).name == value and value.endswith(".safetensors")


def _walk(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        yield f"{prefix}{key}", value
        if isinstance(value, dict) and str(key) != "auto_map":
            yield from _walk(value, f"{prefix}{key}.")


def _first_module(auto_map: Any) -> str:
    value = next(iter(auto_map.values()), "") if isinstance(auto_map, dict) else auto_map
    return str(value)
