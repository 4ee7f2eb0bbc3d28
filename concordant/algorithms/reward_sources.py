"""Where rewards come from: the text of ``--reward`` names a model, a rule or a Python function."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from concordant.algorithms.reward_functions import DEFAULT_HANDLING, FunctionReward, Handling, shown_error
from concordant.algorithms.rewards import Axis, Dialogue, Episode, Members, NamedAxes, Reward, WeightedSum, columns_of
from concordant.algorithms.verifiers import VERIFIERS
from concordant.config.scoring import ScoringConfig
from concordant.config.specs import is_reward_function, place_of, source_of
from concordant.core.errors import UserError, nearest, unknown_name
from concordant.core.process import process_put_back
from concordant.data.carried import NOTHING, Wanted


def exact_match(prompt: Dialogue, response: str, ground_truth: object) -> float | None:
    """1 when the response is the ground truth, else 0; None without a ground truth."""
    return None if ground_truth is None else float(response.strip() == str(ground_truth).strip())


def contains(prompt: Dialogue, response: str, ground_truth: object) -> float | None:
    """1 when the ground truth stands in the response, else 0; None without a ground truth."""
    return None if ground_truth is None else float(str(ground_truth).strip() in response)


def ends(prompt: Dialogue, response: str, ended: bool) -> float:
    """1 when the response ended by itself, else 0."""
    return float(ended)


def environment(prompt: Dialogue, response: str, episode: Episode | None = None) -> float | None:
    """The score that the environment gave the answer; None where it gave none."""
    return None if episode is None else episode.score


UNNAMED = "reward"  # the axis of the members that have no name
DEFAULT_SCORING = ScoringConfig()
RULES: dict[str, Callable[..., float | None]] = {
    "exact_match": exact_match,
    "contains": contains,
    "ends": ends,
    "environment": environment,
    **VERIFIERS,
}


def make_reward(
    sources: Sequence[str],
    load_model: Callable[[str], Axis | Members],
    handling: Handling = DEFAULT_HANDLING,
    scoring: ScoringConfig = DEFAULT_SCORING,
) -> Reward:
    """The reward that ``sources`` name, each as ``NAME=SOURCE=WEIGHT`` with an optional name and weight (1 by default).

    A source is ``rule:NAME``, ``module:function``, or a reward model's folder, hub id or ``package:NAME/FOLDER``.
    Sources of one name are the members of an ensemble, and so are all sources without a name if ``scoring`` asks for
    an ensemble. A source may itself be several members: the heads of a reward model. Raises UserError for an unknown
    source, a weight that is no number, or an ensemble that cannot be.
    """
    if not sources:
        raise UserError("no reward given: expected --reward with a reward model's folder, module:function or rule:NAME")
    axes: dict[str, Axis | Members] = {}
    weights: dict[str, float] = {}
    members: dict[str, list[str]] = {}
    for number, text in enumerate(sources, start=1):
        source, weight = source_of(text), _weight(text)
        column = f"{source.axis}={source.place}" if source.axis else source.place
        column = column if column not in axes else f"{column} #{number}"  # the same source twice counts twice
        axes[column] = _one(source.place, load_model, handling)
        columns = columns_of(column, axes[column])
        weights |= dict.fromkeys(columns, weight)
        name = source.axis or (UNNAMED if scoring.ensemble != "none" else "")
        members.setdefault(name or column, []).extend(columns)
    if scoring.ensemble == "none" and not any(source_of(text).axis for text in sources):
        return Reward(axes, WeightedSum(weights))
    return Reward(axes, _named(members, weights, scoring))


def _named(members: Mapping[str, Sequence[str]], weights: Mapping[str, float], scoring: ScoringConfig) -> NamedAxes:
    several = {name: columns for name, columns in members.items() if len(columns) > 1}
    if several and scoring.ensemble == "none":
        raise UserError(
            f'reward "{next(iter(several))}" is given {len(next(iter(several.values())))} times; say how the scores of '
            "such an ensemble become one: --scoring.ensemble mean, minimum or mean-std"
        )
    if not several and scoring.ensemble != "none":
        raise UserError(
            f"scoring.ensemble={scoring.ensemble}: an ensemble needs two members or more; give --reward A B C, "
            "several of one name: --reward NAME=A NAME=B, or a reward model that was trained with --heads"
        )
    for name, columns in several.items():
        given = {weights[column] for column in columns}
        if len(given) > 1:
            raise UserError(f'reward "{name}": the members of an ensemble have one weight; give each member the same')
    return NamedAxes(
        members={name: tuple(columns) for name, columns in members.items()},
        weights={name: weights[columns[0]] for name, columns in members.items()},
        ensemble=scoring.ensemble,
        deviations=scoring.deviations,
    )


def wanted_columns(sources: Sequence[str]) -> Wanted:
    """The columns of the data that the functions among ``sources`` are called with; a reward model reads text alone."""
    wanted = NOTHING
    for name in map(place_of, sources):
        if name.startswith("rule:") or is_reward_function(name):
            wanted |= _function(name, DEFAULT_HANDLING).wanted
    return wanted


def _weight(text: str) -> float:
    """The weight of a source, 1 if none is given. Raises UserError for a text that is no finite number."""
    weight = source_of(text).weight
    try:
        number = float(weight) if weight or text.endswith("=") else 1.0
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f'reward "{text}": expected SOURCE=WEIGHT with a number, found "{weight}"')
    return number


def _one(name: str, load_model: Callable[[str], Axis | Members], handling: Handling) -> Axis | Members:
    is_function = name.startswith("rule:") or is_reward_function(name)
    return _function(name, handling) if is_function else load_model(name)


def _function(name: str, handling: Handling) -> FunctionReward:
    if name.startswith("rule:"):
        rule = name.removeprefix("rule:")
        if rule not in RULES:
            raise unknown_name("rule", rule, RULES)
        return FunctionReward(RULES[rule], name)
    return FunctionReward(imported(name), name, handling)


def imported(name: str, what: str = "reward") -> Callable[..., Any]:
    """The function ``module:function``. ``what`` is its part in the words of an error."""
    module, _, function = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:  # as `python -m` does: the module may lie beside where the command is typed
        sys.path.append(here)
    try:
        with process_put_back():
            found = vars(importlib.import_module(module)).get(function)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit too: a reward never ends the command
        raise UserError(f'{what} "{name}": cannot import {module} ({shown_error(error)}){_file_meant(name)}') from error
    if not callable(found):
        functions = [key for key, value in vars(sys.modules[module]).items() if callable(value)]
        raise UserError(f'{what} "{name}": {module} has no function {function}.{nearest(function, functions)}')
    return found


def _file_meant(name: str) -> str:
    """' Did you mean "mine:f"?' for ``mine.py:f`` or ``rewards/mine.py:f``: a module is named, not its file."""
    file, _, function = name.partition(":")
    if not file.endswith(".py"):
        return ""
    module = ".".join(Path(file).with_suffix("").parts)
    return f'. Did you mean "{module}:{function}"? A module has no ending and a dot for each folder'
