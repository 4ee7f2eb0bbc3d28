"""Principles in YAML, by which answers are criticised, revised and compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from concordant.config.yaml_io import load_yaml
from concordant.core.errors import UserError, nearest
from concordant.core.seeding import python_stream
from concordant.data.dialogue import Messages, write_prompt

BUILTIN = "builtin"
_FILE = Path(__file__).with_name("principles.yaml")
KEYS = ("critique", "revise", "choose")


@dataclass(frozen=True, slots=True)
class Principle:
    name: str
    critique: str  # asks for a critique of an answer
    revise: str  # asks for a better answer
    choose: str  # asks a judge which of two answers is better


def read_principles(source: str) -> list[Principle]:
    """The principles of a YAML file, by name, or the built-in ones. UserError says what is wrong with which one."""
    path = _FILE if source == BUILTIN else Path(source).expanduser()
    found = [_principle(name, value, f"{path}: {name}") for name, value in load_yaml(path).items()]
    if not found:
        raise UserError(f"{path} has no principle; expected NAME: {{{', '.join(f'{key}: TEXT' for key in KEYS)}}}")
    return found


def _principle(name: str, value: Any, where: str) -> Principle:
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected the keys {', '.join(KEYS)}; found {value!r:.60}")
    for key in value:
        if key not in KEYS:
            raise UserError(f'{where}: unknown key "{key}".{nearest(str(key), KEYS)} Known: {", ".join(KEYS)}')
    for key in KEYS:
        if not isinstance(value.get(key), str) or not value[key].strip():
            raise UserError(f'{where}: "{key}" must be a text; found {value.get(key)!r:.60}')
    return Principle(name, **{key: " ".join(value[key].split()) for key in KEYS})


def principles_for(principles: Sequence[Principle], prompt: Messages, count: int, seed: int) -> list[Principle]:
    """``count`` principles drawn for a prompt, none twice before all are used. They depend on seed and prompt alone."""
    stream = python_stream(seed, "feedback/principle", write_prompt(prompt))
    drawn: list[Principle] = []
    while len(drawn) < count:
        drawn += stream.sample(principles, len(principles))
    return drawn[:count]
