"""The form that starts a run, made from the config classes: every key with its unit, range, default and help."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from concordant.config.checks import expected, needed
from concordant.config.fields import Field, schema
from concordant.config.help import common_keys, default_text
from concordant.config.names import METHODS
from concordant.config.no_effect import useless
from concordant.config.parse import parse_command
from concordant.config.presets import MACHINES, models
from concordant.core.errors import UserError, unknown_name
from concordant.verbs import VERBS

_NOT_ASKED = {"output", "resume"}  # the studio says where the run is written, and resuming has a button


@dataclass(frozen=True, kw_only=True)
class Question:
    """One key of the form."""

    key: str
    kind: str  # text | number | switch | choice | list
    default: str  # as on the command line; "" for an empty text or list
    choices: list[str]
    help: str  # the comment beside the key: its meaning and its unit
    range: str  # in words or in the usual notation; "" if every value of the type is allowed
    needed: bool
    common: bool  # whether the short help page shows the key


def form_of(verb: str) -> dict[str, Any]:
    """The questions of a verb that trains, and the names of the presets."""
    config_class = _class_of(verb)
    unused, must, common = useless(config_class), needed(config_class), common_keys(config_class)
    questions = [
        asdict(_question(known, known.key in must, known.key in common))
        for key, known in schema(config_class).fields.items()
        if key not in unused and key not in _NOT_ASKED
    ]
    presets = [f"{model}/{machine}" for model in models() for machine in MACHINES]
    return {"verb": verb, "summary": VERBS[verb].summary, "questions": questions, "presets": presets}


def arguments_of(verb: str, output: Path, values: Mapping[str, str], preset: str = "") -> list[str]:
    """The command's words after ``concordant``. The whole config is checked, as the command itself would.

    Raises:
        UserError: a key is unknown or given by the studio itself, or the config is refused.
    """
    config_class = _class_of(verb)
    if wrong := sorted(_NOT_ASKED & values.keys()):
        raise UserError(f"{wrong[0]} is set by the studio; leave it out")
    if bad := [key for key in values if key not in schema(config_class).fields]:
        raise unknown_name("key", bad[0], schema(config_class).fields)
    words = [f"--{key}={value}" for key, value in values.items() if value != ""]
    words += [f"--preset={preset}"] if preset else []
    words.append(f"--output={output}")
    parse_command(verb, config_class, words)
    return [verb, *words]


def shown_command(arguments: list[str]) -> str:
    """The command line for a shell."""
    return "concordant " + shlex.join(arguments)


def process_command(arguments: list[str]) -> list[str]:
    return [sys.executable, "-m", "concordant", *arguments]


def _class_of(verb: str) -> type:
    if verb not in METHODS:
        raise unknown_name("verb", verb, METHODS)
    return VERBS[verb].config_class()


def _question(known: Field, is_needed: bool, is_common: bool) -> Question:
    kinds = {bool: "switch", int: "number", float: "number", list[str]: "list"}
    return Question(
        key=known.key,
        kind="choice" if known.is_choice else kinds.get(known.kind, "text"),
        default=default_text(known.default),
        choices=[str(name) for name in get_args(known.kind)] if known.is_choice else [],
        help=known.comment,
        range="" if known.is_choice else expected(known),
        needed=is_needed,
        common=is_common,
    )
