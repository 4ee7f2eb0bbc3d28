"""Small notations inside config values: ``name=PATH,PATH``, ``best_of_n:4:PATH`` and ``polite=module:function=0.5``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from concordant.core.errors import UserError

ADAPTER_CONFIG = "adapter_config.json"  # PEFT's file; a folder that has it is an adapter


def named(values: Sequence[str]) -> dict[str, str]:
    """Paths by name from ``["sft=runs/sft/model", …]``, in order. A missing "=" or a repeated name is an error."""
    result: dict[str, str] = {}
    for value in values:
        name, equals, path = value.partition("=")
        if not (name and equals and path):
            raise UserError(f'"{value}" is not NAME=PATH, e.g. sft=runs/sft/model')
        if name in result:
            raise UserError(f'the name "{name}" is given twice ({result[name]} and {path})')
        result[name] = path
    return result


def weights_of(values: Sequence[str]) -> dict[str, float]:
    """Weights by name from ``["bco_pair=0.2", …]``, in order. UserError for a weight that is not above 0."""
    result: dict[str, float] = {}
    for value in values:
        name, _, weight = value.partition("=")
        if not (name and _is_number(weight) and 0 < float(weight) < float("inf")):
            raise UserError(f'"{value}" is not NAME=WEIGHT with a weight above 0, e.g. bco_pair=0.2')
        if name in result:
            raise UserError(f'"{name}" is given twice')
        result[name] = float(weight)
    return result


def best_of(value: str) -> tuple[int, str]:
    """``best_of_n:4:PATH`` as (4, PATH); any other text as (1, text)."""
    if not value.startswith("best_of_n:"):
        return 1, value
    _, count, path = (value.split(":", 2) + ["", ""])[:3]
    if not (count.isdigit() and int(count) >= 2 and path):
        raise UserError(f'"{value}": expected best_of_n:N:PATH with N of 2 or more, e.g. best_of_n:4:runs/sft/model')
    return int(count), path


def runs_of(value: str) -> list[str]:
    """The models of one policy: ``runs/a/model,runs/b/model`` are two runs of it, such as training with two seeds.

    Each is PATH or best_of_n:N:PATH, all with the same N. A folder whose name holds a comma is one model.
    """
    whole = value.split(":", 2)[-1] if value.startswith("best_of_n:") else value
    runs = [value] if os.path.exists(whole) else value.split(",")
    if not all(runs):
        raise UserError(f'"{value}": no model stands beside a comma; expected PATH or PATH,PATH,…')
    twice = [run for run in runs if runs.count(run) > 1]
    if twice:
        raise UserError(f'"{value}" names {twice[0]} twice; the runs of a policy are different models')
    if len({best_of(run)[0] for run in runs}) > 1:
        raise UserError(f'"{value}": the runs of a policy answer in one way, all as best_of_n:N with one N or none')
    return runs


@dataclass(frozen=True, slots=True)
class Source:
    """Where an axis of a reward comes from: ``NAME=PLACE=WEIGHT``, where name and weight may be left out."""

    axis: str  # "" where none is given
    place: str  # a model, rule:NAME or module:function
    weight: str  # as it was written; "" where none is given


def source_of(text: str) -> Source:
    """The parts of ``helpful=my_module:polite=0.5``. A folder whose name has a "=" stays whole."""
    if os.path.exists(text):
        return Source("", text, "")
    axis, equals, rest = text.partition("=")
    if not (equals and axis.isidentifier() and rest and not _is_number(rest)):
        axis, rest = "", text
    place, equals, weight = rest.rpartition("=")
    return Source(axis, rest, "") if not equals or os.path.exists(rest) else Source(axis, place, weight)


def place_of(text: str) -> str:
    """The model, rule or function that a source names."""
    return source_of(text).place


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def is_reward_function(name: str) -> bool:
    """True for ``module:function``; False for a rule, a server, a folder, a hub id and a model in a package."""
    no_function = name.startswith(("rule:", "package:")) or is_address(name) or os.path.exists(name)
    return ":" in name and not no_function


def is_address(name: str) -> bool:
    """True for the address of a server."""
    return name.startswith(("http://", "https://"))


def is_reward_model(name: str) -> bool:
    """True for a folder, a hub id and a model in a package; False for ``module:function``, a rule and a server."""
    return not name.startswith("rule:") and not is_address(name) and not is_reward_function(name)


GOLD = "gold"  # toytalk's true quality as a judge


def is_votes(judge: str) -> bool:
    """True for a judge that is a file of people's votes."""
    return judge.endswith(".jsonl") and not is_address(judge)


def may_answer_in_words(judge: str) -> bool:
    """True for a server, and for a folder or a hub id, which may be a chat model or a reward model."""
    return is_address(judge) or (judge != GOLD and not is_votes(judge) and is_reward_model(judge))


def may_train_adapter(rank: int, adapter: str, name: str) -> bool:
    """Whether a run trains an adapter: a new one, or the one that ``name`` or ``adapter`` leads to.

    A reference of a pipeline (``${sft.run}/adapter``) may lead to one.
    """
    config = os.path.join(os.path.expanduser(name), ADAPTER_CONFIG)
    return rank > 0 or bool(adapter) or "${" in name or os.path.isfile(config)
