"""Reads a pipeline file into stages with full configs, ordered so that each stage comes after the stages that it names.

seed: 0
data: {path: builtin:toytalk}            # any key outside `stages` is for every stage that has it
stages:
  sft: {model: builtin:tiny}             # the verb is the stage's name, or its own `verb:`
  dpo: {model: "${sft}"}                 # the model that stage `sft` exports; "${sft.run}" is its run folder
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from concordant.config.checks import validate, validate_values
from concordant.config.fields import build, flatten, schema
from concordant.config.names import METHODS
from concordant.config.no_effect import without_idle
from concordant.config.parse import Flat, assign, flat_keys, preset_keys, to_mapping, typed
from concordant.core.errors import UserError, nearest, unknown_name
from concordant.pipeline.rounds import EACH_ROUND, ROUNDS, unrolled
from concordant.runs.names import ADAPTER, MODEL, PAIR_DATA
from concordant.verbs import VERBS, verb_named

_REFERENCE = re.compile(r"\$\{([^}]*)\}")
_NAME = re.compile(r"(round[1-9][0-9]*/)?[A-Za-z0-9_][A-Za-z0-9_-]*")  # those of rounds have a folder for each round
_OWN_KEYS = ("output", "resume")  # keys of the pipeline, which no stage may set

# Verbs whose main result, which "${STAGE}" stands for, is a file of the stage's folder.
_MAIN_FILE = {"collect": PAIR_DATA, "votes": PAIR_DATA}

# Verbs whose output is a file, with the file's name in the stage's folder.
_OUTPUT_FILE = {"score": "scores.jsonl", "generate": "answers.jsonl", "votes": PAIR_DATA}

Option = tuple[str, list[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage. Its references to other stages are not yet replaced by paths."""

    name: str
    verb: str
    values: Flat  # every key of the verb's config
    needs: tuple[str, ...]  # the stages that it names
    needs_model: tuple[str, ...]  # those of them whose main result it uses, such as the exported model
    exports: Mapping[str, str] = field(default_factory=dict)  # each stage's main result, in its own folder

    def folder(self, output: Path) -> Path:
        return output / self.name

    def config(self, output: Path, resume: bool = False) -> Any:
        """The config of the stage, with references replaced by paths under ``output``."""
        values = {
            key: _map_text(value, lambda text: _with_paths(text, output, self.exports))
            for key, value in self.values.items()
        }
        values["output"] = str(self.folder(output) / _OUTPUT_FILE.get(self.verb, ""))
        if "resume" in values:
            values["resume"] = "auto" if resume else ""
        return build(verb_named(self.verb).config_class(), values)

    def mapping(self) -> dict[str, Any]:
        """The stage as in a pipeline file, with every default."""
        mapping = to_mapping(self.verb, build(verb_named(self.verb).config_class(), self.values))
        return {key: value for key, value in mapping.items() if key not in _OWN_KEYS}


def read_plan(mapping: Mapping[str, Any], source: str, options: Sequence[Option] = ()) -> list[Stage]:
    """The stages of a pipeline file, in the order in which they run.

    ``options`` come from the command line: ``stages.NAME.KEY`` replaces a key of a stage, and any other ``KEY``
    replaces a key of the file outside ``stages``. Raises UserError for unknown keys, verbs and references, and for a
    circle.
    """
    mapping, options = unrolled(mapping, source, options)
    listed = mapping.get("stages")
    if not isinstance(listed, Mapping) or not listed:
        raise UserError(f'{source}: "stages" must map at least one name to its keys')
    bodies = {str(name): _body(str(name), body, source) for name, body in listed.items()}
    verbs = {name: _verb(name, body, source) for name, body in bodies.items()}
    if inside := [name for name in bodies if name.partition("/")[0] in bodies and "/" in name]:
        raise UserError(
            f"{source}: stage {inside[0]} would write into the folder of stage {inside[0].partition('/')[0]}"
        )
    presets = _presets(mapping, bodies, verbs, source)
    shared = {key: value for key, value in mapping.items() if key not in ("stages", "preset", *_OWN_KEYS)}
    _check_shared([*shared], verbs, f"{source}: unknown key ", "")
    _check_shared([name for name, _ in options if not name.startswith("stages.")], verbs, "unknown option ", "--")
    own = _stage_options(options, bodies)
    stages = []
    for name, verb in verbs.items():
        config_class = verb_named(verb).config_class()
        keys, where = schema(config_class), f"{source} (stage {name})"
        top = {key.partition(".")[0] for key in keys.fields}
        body = {key: value for key, value in bodies[name].items() if key not in ("verb", "preset")}
        layers = [
            preset_keys(config_class, verb, presets[name], lenient="preset" not in bodies[name]),
            flat_keys(config_class, {key: value for key, value in shared.items() if key in top}, source),
            _assigned(keys, [(key, values) for key, values in options if key.partition(".")[0] in top]),
            flat_keys(config_class, body, where),
            _assigned(keys, own[name]),
        ]
        own_keys = layers[3].keys() | layers[4].keys()
        values = without_idle(config_class, flatten(_typed(config_class, layers, where)), own_keys)
        for key in _OWN_KEYS:
            if values.get(key):
                raise UserError(
                    f"{where}: a stage cannot set {key}: it always writes to OUTPUT/{name} and continues there"
                )
        stages.append(_with_needs(name, verb, values, list(bodies), where))
    exports = {stage.name: _main_result(stage) for stage in stages}
    return _in_order([replace(stage, exports=exports) for stage in stages], source)


def _main_result(stage: Stage) -> str:
    return _MAIN_FILE.get(stage.verb) or (ADAPTER if stage.values.get("train.export") == "adapter" else MODEL)


def check(stages: Sequence[Stage], output: Path, only_values: bool = False) -> None:
    """Check the values, ranges and contradictions of all stages before the first one runs."""
    for stage in stages:
        try:
            (validate_values if only_values else validate)(stage.config(output))
        except UserError as problem:
            raise UserError(f"stage {stage.name}: {problem}") from None


def _body(name: str, body: Any, source: str) -> dict[str, Any]:
    if not _NAME.fullmatch(name):
        raise UserError(f'{source}: "{name}" cannot name a stage; use letters, digits, "_" and "-"')
    if not isinstance(body, Mapping | None):
        raise UserError(f"{source}: stage {name} must map keys to values, given {body!r}")
    return {str(key): value for key, value in (body or {}).items()}


def _verb(name: str, body: Mapping[str, Any], source: str) -> str:
    verb = str(body.get("verb", name.rpartition("/")[2]))
    if "verb" not in body and verb not in VERBS:
        raise UserError(f'{source}: stage {name} needs "verb: NAME", one of {", ".join(VERBS)}')
    if verb not in VERBS:
        raise UserError(f"{source}: stage {name}: {unknown_name('verb', verb, VERBS)}")
    if "output" not in schema(verb_named(verb).config_class()).fields:
        raise UserError(f"{source}: stage {name}: {verb} writes no folder and cannot be a stage")
    return verb


def _presets(
    mapping: Mapping[str, Any], bodies: Mapping[str, Mapping[str, Any]], verbs: Mapping[str, str], source: str
) -> dict[str, list[str]]:
    """The presets of each stage: its own, or the file's if the stage trains. One name may stand without a list."""
    for name, body in bodies.items():
        if "preset" in body and verbs[name] not in METHODS:
            raise UserError(f"{source}: stage {name}: only verbs that train have presets: {', '.join(METHODS)}")
    given = {name: body.get("preset", mapping.get("preset")) for name, body in bodies.items() if verbs[name] in METHODS}
    lists = {name: names if isinstance(names, list) else [names] for name, names in given.items() if names}
    return {name: list(map(str, lists.get(name, ()))) for name in bodies}


def _check_shared(keys: Sequence[str], verbs: Mapping[str, str], what: str, dashes: str) -> None:
    known = {key.partition(".")[0] for verb in verbs.values() for key in schema(verb_named(verb).config_class()).fields}
    for key in keys:
        if key.partition(".")[0] not in known - set(_OWN_KEYS):
            names = [dashes + name for name in (*known, "stages", "output", "preset", ROUNDS, EACH_ROUND)]
            raise UserError(f'{what}"{dashes}{key}".{nearest(dashes + key, names)}')


def _stage_options(options: Sequence[Option], stages: Mapping[str, Any]) -> dict[str, list[Option]]:
    own: dict[str, list[Option]] = {name: [] for name in stages}
    for key, values in options:
        if key.startswith("stages."):
            _, name, *rest = key.split(".", 2)
            if name not in own:
                raise unknown_name("stage", name, own)
            if not rest:
                raise UserError(f"--{key} needs a key of the stage, e.g. --{key}.train.max_steps=10")
            own[name].append((rest[0], values))
    return own


def _assigned(keys: Any, options: Sequence[Option]) -> Flat:
    flat: Flat = {}
    for key, values in options:
        assign(keys, key, values, flat)
    return flat


def _typed(config_class: type, layers: Sequence[Flat], where: str) -> Any:
    try:
        return typed(config_class, layers)
    except UserError as problem:
        raise UserError(f"{where}: {problem}") from None


def _with_needs(name: str, verb: str, values: Flat, known: Sequence[str], where: str) -> Stage:
    needs: dict[str, bool] = {}  # stage -> whether its model is used
    for key, value in values.items():
        for reference in (found for text in _texts(value) for found in _REFERENCE.findall(text)):
            stage, dot, part = reference.partition(".")
            if stage not in known:
                raise UserError(f"{where}: {key}: {unknown_name('stage', stage, known)}")
            if dot and part != "run":
                raise UserError(f"{where}: {key}: expected ${{{stage}}} or ${{{stage}.run}}, given ${{{reference}}}")
            needs[stage] = needs.get(stage, False) or not dot
    return Stage(
        name=name,
        verb=verb,
        values=values,
        needs=tuple(needs),
        needs_model=tuple(stage for stage, model in needs.items() if model),
    )


def _in_order(stages: Sequence[Stage], source: str) -> list[Stage]:
    """The stages in an order that works; the order of the file where possible."""
    left, done = list(stages), list[Stage]()
    while left:
        names = {stage.name for stage in done}
        ready = next((stage for stage in left if names.issuperset(stage.needs)), None)
        if ready is None:
            raise UserError(f"{source}: stages name one another in a circle: {_circle(left)}")
        left.remove(ready)
        done.append(ready)
    return done


def _circle(left: Sequence[Stage]) -> str:
    """A circle among the stages as text, ``a -> b -> a``. Every stage in ``left`` needs another stage in ``left``."""
    by_name = {stage.name: stage for stage in left}
    path = [left[0].name]
    while path[-1] not in path[:-1]:
        path.append(next(need for need in by_name[path[-1]].needs if need in by_name))
    return " -> ".join(path[path.index(path[-1]) :])


def _texts(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else value if isinstance(value, list) else []


def _map_text(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    return [change(item) for item in value] if isinstance(value, list) else value


def _with_paths(text: str, output: Path, exports: Mapping[str, str]) -> str:
    def path(match: re.Match[str]) -> str:
        stage, dot, _ = match[1].partition(".")
        return str(output / stage if dot else output / stage / exports.get(stage, MODEL))

    return _REFERENCE.sub(path, text)
