"""The keys of a config class: dotted name, type, default, and the comment beside the key, which is its help text."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import io
import textwrap
import tokenize
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from concordant.config.data import DataConfig
from concordant.config.environment import EnvironmentConfig
from concordant.config.model import ModelConfig
from concordant.config.stages import AuditConfig, CourseConfig, DiagnoseConfig, PushConfig, VotesConfig

# `--data FILE` and `data: FILE` mean data.path
MAIN_KEY: dict[type, str] = {DataConfig: "path", ModelConfig: "name", EnvironmentConfig: "name"}
# The keys that the first words of a command line mean, where they have none: `concordant push FOLDER ID`.
# A key that is a list takes all of them.
BARE_WORDS: dict[type, tuple[str, ...]] = {
    AuditConfig: ("reward",),
    CourseConfig: ("action", "exercise", "file"),
    DiagnoseConfig: ("target",),
    PushConfig: ("folder", "id"),
    VotesConfig: ("action",),
}
# What an option means that is given without a value. A switch means true; any other option needs a value.
BARE: dict[tuple[type, str], str] = {(DiagnoseConfig, "explain"): "all"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One key of a config."""

    key: str  # dotted, e.g. "train.learning_rate"
    kind: Any  # str, int, float, bool, list[str] or a Literal of texts
    default: Any
    comment: str  # "" if the source has no comment
    owner: type  # the dataclass that declares it

    @property
    def name(self) -> str:
        return self.key.rpartition(".")[2]

    @property
    def is_choice(self) -> bool:
        """True if the type lists the allowed texts."""
        return typing.get_origin(self.kind) is typing.Literal


@dataclass(frozen=True, slots=True)
class Schema:
    """All keys of a config class."""

    fields: dict[str, Field]  # by dotted key, in the order of the source
    sections: dict[str, type]  # "train" -> TrainConfig, "model.lora" -> LoraConfig


@functools.cache
def comments(config_class: type) -> dict[str, str]:
    """The trailing comment of every field declared in the class or in the classes it extends."""
    found: dict[str, str] = {}
    for owner in reversed(config_class.__mro__[:-1]):
        source = textwrap.dedent(inspect.getsource(owner))
        tokens = tokenize.generate_tokens(io.StringIO(source).readline)
        by_line = {t.start[0]: t.string.lstrip("# ").strip() for t in tokens if t.type == tokenize.COMMENT}
        body = typing.cast(ast.ClassDef, ast.parse(source).body[0]).body
        for node in body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                found[node.target.id] = by_line.get(node.end_lineno or node.lineno, "")
    return found


_SCHEMAS: dict[type, Schema] = {}


def schema(config_class: type) -> Schema:
    """The keys of ``config_class`` and of every section below it."""
    if config_class in _SCHEMAS:
        return _SCHEMAS[config_class]
    result = _SCHEMAS[config_class] = Schema({}, {})
    _collect(
        config_class, dataclasses.asdict(config_class()), "", result
    )  # by asdict, because the owner of a section may change the section's defaults
    return result


def _collect(config_class: type, defaults: Mapping[str, Any], prefix: str, into: Schema) -> None:
    hints, notes = typing.get_type_hints(config_class), comments(config_class)
    for field in dataclasses.fields(config_class):
        key, kind = prefix + field.name, hints[field.name]
        if dataclasses.is_dataclass(kind):
            into.sections[key] = typing.cast(type, kind)
            _collect(typing.cast(type, kind), defaults[field.name], key + ".", into)
        else:
            into.fields[key] = Field(
                key=key, kind=kind, default=defaults[field.name], comment=notes[field.name], owner=config_class
            )


def build(config_class: type, values: Mapping[str, Any], prefix: str = "") -> Any:
    """An instance of ``config_class`` from dotted keys. Every key of the schema must be given.

    The values are not checked here, so that ``checks.validate`` can name every wrong one with its whole key.
    """
    hints = typing.get_type_hints(config_class)
    made: Any = object.__new__(config_class)
    for field in dataclasses.fields(config_class):
        key, kind = prefix + field.name, hints[field.name]
        nested = dataclasses.is_dataclass(kind)
        setattr(made, field.name, build(typing.cast(type, kind), values, key + ".") if nested else values[key])
    return made


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys as nested mappings, in the same order."""
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *sections, name = key.split(".")
        place = nested
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = value
    return nested


def flatten(config: Any) -> dict[str, Any]:
    """Dotted keys and values of a config; the inverse of ``build``."""
    return unnest(dataclasses.asdict(config))


def unnest(nested: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys and values of nested mappings; the inverse of ``nest``."""
    flat: dict[str, Any] = {}

    def walk(mapping: Mapping[str, Any], prefix: str) -> None:
        for name, value in mapping.items():
            if isinstance(value, dict):
                walk(value, f"{prefix}{name}.")
            else:
                flat[prefix + name] = value

    walk(nested, "")
    return flat
