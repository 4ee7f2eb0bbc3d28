"""Makes a config from a command line or a YAML mapping. An unknown key is refused with the nearest known one.

jsonargparse converts types. The names of keys and the words of all errors come from here.
"""

from __future__ import annotations

import argparse
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from concordant.config.checks import shown, type_problem, validate, validate_values
from concordant.config.fields import BARE, BARE_WORDS, MAIN_KEY, Schema, build, flatten, nest, schema
from concordant.config.names import METHODS
from concordant.config.no_effect import without_idle
from concordant.config.others_names import meant_by_others
from concordant.config.presets import layered
from concordant.config.stages import RunConfig
from concordant.config.yaml_io import load_yaml, parse_yaml
from concordant.core.errors import UserError, nearest

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

Config = TypeVar("Config")
Flat = dict[str, Any]  # values by dotted key


@dataclass(slots=True)
class Options:
    """The options of a command line, before their types are checked."""

    files: list[str] = field(default_factory=list)  # files given by --config, in order
    values: Flat = field(default_factory=dict)
    presets: list[str] = field(default_factory=list)  # names given by --preset
    print_config: bool = False


def parse_command(verb: str, config_class: type[Config], arguments: Sequence[str]) -> tuple[Config, Options]:
    """The config of ``concordant VERB ARGUMENTS``: defaults, preset, files in order, options; the later one wins.

    With --print_config only single values are checked: keys may be missing, and may contradict each other.
    """
    options = read_options(config_class, arguments, f"concordant {verb}")
    layers = []
    for path in options.files:
        mapping = load_yaml(path)
        of = mapping.pop("verb", verb)
        if of != verb:
            raise UserError(f"{path} is a config of {of} and not of {verb}; use `concordant run {path}`")
        layers.append(flat_keys(config_class, mapping, path))
    config = over_preset(config_class, verb, options.presets, [*layers, options.values])
    check = validate_values if options.print_config else validate
    check(config)
    return config, options


def over_preset(config_class: type[Config], verb: str, presets: Sequence[str], layers: Sequence[Flat]) -> Config:
    """The config made from the defaults, then from the presets of these names, if there are any, then from ``layers``.

    A key of a preset that has no effect beside the keys of ``layers`` is left out.
    """
    below = preset_keys(config_class, verb, presets)
    given = {key for layer in layers for key in layer}
    if presets and given.issuperset(below):
        raise UserError(
            f"--preset {' '.join(presets)} would do nothing: files and options set each of its keys; leave it out"
        )
    config = typed(config_class, [below, *layers])
    return build(config_class, without_idle(config_class, flatten(config), given)) if presets else config


def preset_keys(config_class: type, verb: str, names: Sequence[str], lenient: bool = False) -> Flat:
    """The values that the presets ``names`` set for ``verb``; see ``presets.layered`` for their order and errors."""
    below: Flat = {}
    for where, settings in layered(names, verb, lenient):
        below |= flat_keys(config_class, settings, where)
    return below


def read_options(config_class: type, arguments: Sequence[str], command: str) -> Options:
    """The options of a verb's command line by dotted key."""
    keys, options = schema(config_class), Options()
    bare = len(list(itertools.takewhile(lambda word: not word.startswith("--"), arguments)))
    if "" in arguments[:bare]:
        raise UserError(f"{command}: an empty word was given. A variable of the shell that is not set gives one")
    named = _named_words(keys, BARE_WORDS.get(config_class, ()), arguments[:bare])
    arguments = [*named, *arguments[len(named) :]]
    for name, values in split_options(arguments, command):
        if name == "print_config" and not values:
            options.print_config = True
        elif name == "config":
            options.files += values
        elif name == "preset":
            if not issubclass(config_class, RunConfig):
                raise UserError(f"{command}: only verbs that train have presets: {', '.join(METHODS)}")
            options.presets += values or [one_value(name, values)]
        else:
            assign(keys, name, values, options.values, f"See `{command} --help`.")
    return options


def _named_words(keys: Schema, names: Sequence[str], words: Sequence[str]) -> list[str]:
    """The first words of a command line as options of the keys ``names``."""
    if len(names) == 1 and keys.fields[names[0]].kind == list[str]:
        names = list(names) * len(words)
    return [f"--{key}={word}" for key, word in zip(names, words, strict=False)]


def split_options(arguments: Sequence[str], command: str) -> list[tuple[str, list[str]]]:
    """``--a.b=c``, ``--a.b c``, ``--list x y`` and ``--flag`` as (name, values)."""
    found: list[tuple[str, list[str]]] = []
    takes_more = False
    for token in arguments:
        if token.startswith("--"):
            name, equals, value = token[2:].partition("=")
            found.append((name, [value] if equals else []))
            takes_more = not equals
        elif takes_more:
            found[-1][1].append(token)
        else:
            raise UserError(f'{command}: "{token}" belongs to no option; options look like --train.max_steps=10')
    return found


def assign(keys: Schema, name: str, values: Sequence[str], into: Flat, hint: str = "") -> None:
    """Store the values of an option under its key. Repeated list options are joined; a flag without a value is True."""
    known = keys.fields[known_key(keys, name, "option", hint)]
    bare = True if known.kind is bool else BARE.get((known.owner, known.name))
    if not values and bare is not None:
        into[known.key] = bare
    elif values and known.kind == list[str]:
        into.setdefault(known.key, []).extend(item for value in values for item in _items(value, known.key))
    else:
        into[known.key] = one_value(name, values)


def one_value(name: str, values: Sequence[str]) -> str:
    """The value of an option that takes one value."""
    if not values:
        raise UserError(f"--{name} needs a value: --{name}=VALUE")
    if len(values) > 1:
        raise UserError(f'--{name} takes one value; "{values[1]}" belongs to no option')
    return values[0]


def known_key(keys: Schema, name: str, what: str, hint: str = "") -> str:
    """``name`` as a dotted key. A section means its main key. An unknown name is an error with the nearest key."""
    dashes = "--" if what == "option" else ""
    if name in keys.fields:
        return name
    if name in keys.sections:
        main = MAIN_KEY.get(keys.sections[name])
        if main:
            return f"{name}.{main}"
        inside = ", ".join(f"{dashes}{key}" for key in keys.fields if key.startswith(name + "."))
        raise UserError(f"{dashes}{name} is a section; give one of its keys: {inside}")
    same_ending = [key for key in keys.fields if key.endswith("." + name)]
    everything = [dashes + key for key in (*keys.fields, *keys.sections)]
    meant = same_ending[0] if same_ending else meant_by_others(name, keys.fields)
    guess = f' Did you mean "{dashes}{meant}"?' if meant else nearest(dashes + name, everything)
    raise UserError(f'unknown {what} "{dashes}{name}".{guess}{" " + hint if hint else ""}')


def flat_keys(config_class: type, mapping: Mapping[str, Any], source: str) -> Flat:
    """The values of a nested mapping by dotted key. An unknown key, or a section that is no mapping, is an error."""
    keys, flat = schema(config_class), {}

    def walk(values: Mapping[Any, Any], prefix: str) -> None:
        for name, value in values.items():
            key = f"{prefix}{name}"
            if key in keys.sections and isinstance(value, Mapping):
                walk(value, key + ".")
            elif key in keys.sections and keys.sections[key] not in MAIN_KEY:
                raise UserError(f"{source}: {key}: expected keys below it, given {shown(value)}")
            else:
                flat[known_key(keys, key, f"key in {source}:")] = value

    walk(mapping, "")
    return flat


def typed(config_class: type[Config], layers: Sequence[Flat]) -> Config:
    """The config made from the defaults and then from each layer in turn. Values are converted to their key's type."""
    keys = schema(config_class)
    values = {key: known.default for key, known in keys.fields.items()}
    for layer in layers:
        values |= layer
    for key, value in values.items():
        known = keys.fields[key]
        if known.kind == list[str] and isinstance(value, str):
            values[key] = [value]  # a list of one item may be given without brackets
        wrong = value is None or (known.kind is bool and not isinstance(value, bool) and value not in ("true", "false"))
        if wrong:
            raise UserError(type_problem(known, value))
    return build(config_class, _cast(config_class, keys, values))


_PARSERS: dict[type, ArgumentParser] = {}  # kept, because a pipeline uses one class for many stages


def _cast(config_class: type, keys: Schema, values: Flat) -> Flat:
    try:
        if config_class not in _PARSERS:
            _PARSERS[config_class] = parser(config_class)
        namespace = _PARSERS[config_class].parse_object(nest(values))
    except argparse.ArgumentError as problem:
        match = re.search(r'[Kk]ey "([\w.]+)"', str(problem))
        if match is None or match[1] not in keys.fields:
            raise UserError(str(problem)) from None
        raise UserError(type_problem(keys.fields[match[1]], values[match[1]])) from None
    cast = {key: namespace[key] for key in keys.fields}
    return {key: float(value) if keys.fields[key].kind is float else value for key, value in cast.items()}


def parser(config_class: type) -> ArgumentParser:
    """jsonargparse's parser, which converts values to the types of the keys."""
    from jsonargparse import ArgumentParser

    result = ArgumentParser(exit_on_error=False, allow_abbrev=False)
    for key, known in schema(config_class).fields.items():
        kind = str if known.is_choice else known.kind  # `validate` refuses an unknown name, in our words
        result.add_argument(f"--{key}", type=kind, default=known.default)
    return result


def to_mapping(verb: str, config: Any) -> dict[str, Any]:
    """The nested mapping for config.yaml: the verb first, then every key, including defaults."""
    return {"verb": verb, **nest(flatten(config))}


def _items(text: str, key: str) -> list[str]:
    """The items of a text: ``[a, b]`` is a YAML list, and any other text is one item."""
    if not (text.startswith("[") and text.endswith("]")):
        return [text]
    return [str(item) for item in parse_yaml(text, f"--{key}")]
