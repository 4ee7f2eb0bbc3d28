"""The shape of the model that a user names: a known model, a folder with a config.json, or dimensions."""

from __future__ import annotations

import os
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from concordant.config.names import ModelKind
from concordant.config.plan import ShapeConfig
from concordant.core.errors import UserError, nearest
from concordant.core.near_path import nearest_path
from concordant.models.settings_files import read_object
from concordant.planning.known import KNOWN, known_shape
from concordant.planning.shapes import Shape

_LARGEST = 10**8  # of a dimension; a larger number is a mistake

# Keys of config.json by the field of ``Shape``; the first key that is there counts.
_KEYS: dict[str, tuple[str, ...]] = {
    "vocabulary": ("vocab_size",),
    "hidden": ("hidden_size", "n_embd"),
    "layers": ("num_hidden_layers", "n_layer"),
    "heads": ("num_attention_heads", "n_head"),
    "kv_heads": ("num_key_value_heads",),
    "head_size": ("head_dim",),
    "mlp": ("intermediate_size", "n_inner"),
    "positions": ("n_positions",),
}
# What transformers takes where config.json lacks a key or has null for it, where this is no other dimension.
_TIED_BY_DEFAULT: tuple[ModelKind, ...] = ("gemma3_text", "gpt2")
_HEAD_SIZES: dict[ModelKind, int] = {"qwen3": 128, "gemma3_text": 256}


def shape_of(name: str) -> Shape:
    """The shape of the model ``name``: a known model or a folder with a config.json.

    Raises:
        UserError: there is no such model, or its architecture is not one of those that are planned.
    """
    place = Path(os.path.expanduser(name))
    if os.path.isdir(place):
        path = place / "config.json"
        if not path.is_file():
            raise UserError(f'"{place}" has no config.json, so its shape is not known')
        return from_settings(read_object(path), str(path))
    if os.path.isfile(place):
        raise UserError(f'"{name}" is a file; expected a folder with a config.json, or the name of a known model')
    shape = known_shape(name)
    if shape is None:
        short = [hub_id.partition("/")[2] for hub_id in KNOWN]
        guess = nearest_path(place, Path.is_dir) or nearest(name, KNOWN) or nearest(name, short)
        raise UserError(
            f'no folder and no known model "{name}".{guess} Known: {", ".join(KNOWN)}. '
            "Give the folder of another model, or its dimensions as --shape.hidden, --shape.layers, …"
        )
    return shape


def from_settings(settings: Mapping[str, Any], where: str) -> Shape:
    """The shape in the contents of a config.json. ``where`` names the file in errors."""
    inner = settings.get("text_config")
    if isinstance(inner, Mapping):  # a model of text and pictures: its language model
        settings = {**settings, **inner}
    kind = _kind(settings.get("model_type"), where)
    found = {name: _first(settings, keys, where) for name, keys in _KEYS.items()}
    needed = ("vocabulary", "hidden", "layers", "heads")
    missing = [_KEYS[name][0] for name in needed if not found[name]]
    if not found["mlp"] and kind != "gpt2":
        missing.append(_KEYS["mlp"][0])
    if missing:
        raise UserError(f'"{where}" lacks {", ".join(missing)}, so the shape of the model is not known')
    heads, hidden = found["heads"], found["hidden"]
    tied = settings.get("tie_word_embeddings")
    return _consistent(
        Shape(
            kind=kind,
            vocabulary=found["vocabulary"],
            hidden=hidden,
            layers=found["layers"],
            heads=heads,
            kv_heads=found["kv_heads"] or heads,
            head_size=found["head_size"] or _HEAD_SIZES.get(kind, hidden // heads),
            mlp=found["mlp"] or 4 * hidden,
            tied=kind in _TIED_BY_DEFAULT if tied is None else bool(tied),
            positions=found["positions"] if kind == "gpt2" else 0,
        ),
        where,
    )


def from_dimensions(given: ShapeConfig) -> Shape:
    """The shape that a user gives by its dimensions."""
    return _consistent(
        Shape(
            kind=given.kind,
            vocabulary=given.vocabulary,
            hidden=given.hidden,
            layers=given.layers,
            heads=given.heads,
            kv_heads=given.kv_heads or given.heads,
            head_size=given.head_size or given.hidden // given.heads,
            mlp=given.mlp,
            tied=given.tied,
        ),
        "shape",
    )


def _kind(given: Any, where: str) -> ModelKind:
    kinds = typing.get_args(ModelKind)
    name = "gemma3_text" if given == "gemma3" else given
    if name not in kinds:
        raise UserError(
            f'"{where}" is of the architecture {given!s:.60}, which is not planned. Planned: {", ".join(kinds)}. '
            "Give the dimensions of a model with the same matrices as --shape.hidden, --shape.layers, …"
        )
    return typing.cast(ModelKind, name)


def _first(settings: Mapping[str, Any], keys: tuple[str, ...], where: str) -> int:
    """The first of these settings that is there; 0 if there is none."""
    for key in keys:
        value = settings.get(key)
        if value is not None:
            if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= _LARGEST:
                raise UserError(f'"{where}": {key} is {value!s:.60}; expected a whole number above 0')
            return value
    return 0


def _consistent(shape: Shape, where: str) -> Shape:
    if shape.heads % shape.kv_heads or not shape.head_size:
        raise UserError(
            f"{where}: {shape.heads} heads, {shape.kv_heads} key heads and a hidden size of {shape.hidden} do not fit "
            "together; the heads are a multiple of the key heads, and the hidden size is no smaller than the heads"
        )
    return shape
