"""``validate`` checks whether a verb can work with a config. The command line, pipelines and the library all use it.

All problems are reported at once, each with its key, the given value and the expected value.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import typing
from collections.abc import Callable
from typing import Any, TypeVar

from concordant.config import stages as s
from concordant.config.contradictions import CONTRADICTIONS
from concordant.config.fields import Field, flatten, schema
from concordant.config.no_effect import idle
from concordant.config.paths import paths_of
from concordant.config.ranges import VALUES, Matches, Names, Range, Rule
from concordant.config.rule_kinds import Contradiction, Values
from concordant.core.errors import UserError, nearest

Config = TypeVar("Config")
Result = TypeVar("Result")

# Keys that a verb needs, each with an example.
_EXAMPLES = {
    "output": "--output runs/NAME",
    "data.path": "--data FILE, a hub id or builtin:toytalk",
    "model.name": "--model.name builtin:tiny, a folder or a hub id",
    "model.adapter": "--model.adapter FOLDER, the adapter to merge",
    "reward": "--reward FOLDER, module:function or rule:NAME",
    "teacher": "--teacher FOLDER, the policy to learn from",
    "models": "--models FOLDER FOLDER …, reward models of one start",
    "policies": "--policies NAME=FOLDER …",
    "principles": "--principles FILE.yaml or builtin",
    "folder": "FOLDER, a run folder, a model or an adapter",
    "id": "OWNER/NAME on the hub",
    "action": "what to do: import, rater, retire, rank, status or export",
    "database": "--database FILE, or the URL of a server",
    "judge": "--judge WHO, such as a model's folder or module:function; --help lists every form",
}
NEEDED: dict[type, tuple[str, ...]] = {
    s.RunConfig: ("output", "data.path", "model.name"),
    s.PPOConfig: ("reward",),
    s.DistillConfig: ("teacher",),
    s.BestOfNConfig: ("output", "data.path", "model.name", "reward"),
    s.CollectConfig: ("output", "data.path", "model.name", "judge"),
    s.EvaluateConfig: ("output", "data.path", "policies"),
    s.ScoreConfig: ("data.path", "model.name"),
    s.PrepareConfig: ("output", "data.path"),
    s.GenerateConfig: ("model.name",),
    s.ChatConfig: ("model.name",),
    s.ServeConfig: ("model.name",),
    s.MergeConfig: ("output", "model.name", "model.adapter"),
    s.AverageConfig: ("models", "output"),
    s.PushConfig: ("folder", "id"),
    s.JudgeConfig: ("output", "data.path", "judge"),
    s.ConstitutionConfig: ("output", "data.path", "model.name", "principles"),
    s.AuditConfig: ("output", "data.path", "reward"),
    s.VotesConfig: ("action", "database"),
}


def needed(config_class: type) -> list[str]:
    """The keys that a verb with this config needs."""
    return [key for owner in config_class.__mro__[:-1] for key in NEEDED.get(owner, ())]


def checked(stage: Callable[[Config], Result]) -> Callable[[Config], Result]:
    """A decorator for every verb: ``stage`` runs only after ``validate`` has accepted its config."""

    @functools.wraps(stage)
    def entrance(config: Config) -> Result:
        wanted = typing.get_type_hints(stage)["config"]
        if not isinstance(config, wanted):
            raise UserError(f"{stage.__name__}: expected a {wanted.__name__}; given {shown(config)}")
        validate(config)
        return stage(config)

    return entrance


def validate(config: Any, prefix: str = "") -> None:
    """Raise a ``UserError`` that lists every problem of ``config``, with ``prefix`` before each key.

    A problem is a value of a wrong type or out of range, a path that no disk can hold, a missing key, a contradiction,
    or a key without effect.
    """
    problems = _wrong_sections(config) or _wrong_values(config) or _wrong_texts(config) or _wrong_together(config)
    _refuse(problems, prefix)


def validate_values(config: Any, prefix: str = "") -> None:
    """Raise a ``UserError`` that lists every value of a wrong type or out of range.

    Values are not compared with each other, and a missing key is no problem. So this also checks a config that is made
    in several steps.
    """
    _refuse(_wrong_sections(config) or _wrong_values(config), prefix)


def _refuse(problems: list[str], prefix: str) -> None:
    if problems:
        raise UserError("\n  ".join(f"{prefix}{problem}" for problem in problems))


def _wrong_sections(config: Any, prefix: str = "") -> list[str]:
    """Problems of sections that have the wrong class. Only a config made in Python can have such a section."""
    problems = []
    for field in dataclasses.fields(config):
        wanted = typing.get_type_hints(type(config))[field.name]
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(wanted):
            if not isinstance(value, typing.cast(type, wanted)):
                name = typing.cast(type, wanted).__name__
                problems.append(f"{prefix}{field.name}: expected a {name}; given {shown(value)}")
            else:
                problems += _wrong_sections(value, f"{prefix}{field.name}.")
    return problems


def _wrong_values(config: Any) -> list[str]:
    values, problems = flatten(config), []
    for known in schema(type(config)).fields.values():
        value = values[known.key]
        if not _has_type(known.kind, value):
            problems.append(type_problem(known, value))
        elif problem := value_problem(known, value):
            problems.append(f"{known.key}: {problem}")
    return problems


def _wrong_texts(config: Any) -> list[str]:
    """Names that no disk can hold, such as one of 300 letters, and other texts that are no Unicode."""
    values, problems = flatten(config), []
    paths = paths_of(type(config), values)
    for key, value in values.items():
        texts = value if isinstance(value, list) else [value] if isinstance(value, str) else []
        if key in paths or key == "output":
            wrong = (problem for path in paths.get(key, texts) if (problem := _unopenable(path)))
            problems += [f"{key}: {problem}" for problem in itertools.islice(wrong, 1)]
        if (key not in paths) and any("\ud800" <= letter <= "\udfff" for text in texts for letter in text):
            problems.append(f"{key}: expected text in UTF-8; given {shown(value)}")
    return problems


def _unopenable(path: str) -> str:
    """Why nothing can have the name ``path``; "" where something can."""
    try:
        os.stat(os.path.expanduser(path))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return ""  # a hub id, a file to be written, or something that the verb speaks of
    except (OSError, ValueError) as problem:  # a name too long; a link to itself; a NUL
        reason = getattr(problem, "strerror", None) or problem
        return f'cannot open "{path[:80]}{"…" if len(path) > 80 else ""}": {reason}'
    return ""


def _wrong_together(config: Any) -> list[str]:
    values = flatten(config)
    missing = [key for key in needed(type(config)) if not values[key]]
    problems = [f"{key} is needed; give {_EXAMPLES[key]}" for key in missing]
    for rule in contradicted(type(config), values):
        given = ", ".join(f"{key}={shown(values[key])}" for key in rule.keys)
        problems.append(f"{given}: {rule.why}")
    unused = [f"{key}={shown(values[key])} would do nothing: {why}" for key, why in idle(type(config), values).items()]
    return problems + unused


def contradicted(config_class: type, values: Values) -> list[Contradiction]:
    """The rules that ``values``, by dotted key, break."""
    owners = config_class.__mro__[:-1]
    return [rule for owner in owners for rule in CONTRADICTIONS.get(owner, ()) if rule.wrong(values)]


def _has_type(kind: Any, value: Any) -> bool:
    if kind == list[str]:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, bool if kind is bool else str)


_KIND = {int: "a whole number", float: "a number", bool: "true or false", list[str]: "a list of texts"}


def type_problem(known: Field, value: Any) -> str:
    """The sentence about a value that has not the type of its key."""
    allowed = expected(known)
    kind = _KIND.get(known.kind, "text")
    return f"{known.key}: expected {kind}{f', {allowed}' if allowed else ''}; given {shown(value)}"


def value_problem(known: Field, value: Any) -> str | None:
    """The problem of a value that has the right type, with the value; None if there is no problem."""
    names = typing.get_args(known.kind) if known.is_choice else ()
    if names and value not in names:
        guess = nearest(value, names)
        allowed = ", ".join(name for name in names if name)
        return f"expected one of {allowed}; given {shown(value)}{'.' if guess else ''}{guess}"
    rule = _rule(known)
    problem = rule.problem(value) if rule else None
    return problem if problem is None or isinstance(rule, Names) else f"{problem}; given {shown(value)}"


def expected(known: Field) -> str:
    """The allowed names or the range of a key in words; '' if every value of its type is allowed."""
    if known.is_choice:
        return " | ".join(name or '""' for name in typing.get_args(known.kind))
    rule = _rule(known)
    if isinstance(rule, Range):
        return rule.text
    return rule.expected if isinstance(rule, Matches) else ""


def _rule(known: Field) -> Rule | None:
    tables = (VALUES.get(declared, {}) for declared in known.owner.__mro__[:-1])
    return next((rules[known.name] for rules in tables if known.name in rules), None)


def shown(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)
