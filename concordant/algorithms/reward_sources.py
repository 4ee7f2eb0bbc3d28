"""Where rewards come from: the text of ``--reward`` names a model, a rule or a Python function."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from concordant.algorithms.reward_functions import DEFAULT_HANDLING, FunctionReward, Handling, shown_error
from concordant.algorithms.rewards import Axis, Dialogue, Reward, WeightedSum
from concordant.config.specs import is_reward_function, without_weight
from concordant.core.errors import UserError, unknown_name
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


RULES: dict[str, Callable[..., float | None]] = {"exact_match": exact_match, "contains": contains, "ends": ends}


def make_reward(
    sources: Sequence[str], load_model: Callable[[str], Axis], handling: Handling = DEFAULT_HANDLING
) -> Reward:
    """The reward that ``sources`` name, each with an optional ``=weight`` (1 by default).

    A source is ``rule:NAME``, ``module:function``, or a reward model's folder, hub id or ``package:NAME/FOLDER``.
    """
    if not sources:
        raise UserError("no reward given: expected --reward with a reward model's folder, module:function or rule:NAME")
    axes: dict[str, Axis] = {}
    weights: dict[str, float] = {}
    for number, source in enumerate(sources, start=1):
        name, weight = _split_weight(source)
        axis = name if name not in axes else f"{name} #{number}"  # the same source twice counts twice
        axes[axis], weights[axis] = _one(name, load_model, handling), weight
    return Reward(axes, WeightedSum(weights))


def wanted_columns(sources: Sequence[str]) -> Wanted:
    """The columns of the data that the functions among ``sources`` are called with; a reward model reads text alone."""
    wanted = NOTHING
    for name in map(without_weight, sources):
        if name.startswith("rule:") or is_reward_function(name):
            wanted |= _function(name, DEFAULT_HANDLING).wanted
    return wanted


def _split_weight(source: str) -> tuple[str, float]:
    name = without_weight(source)
    if name == source:
        return source, 1.0
    weight = source.removeprefix(f"{name}=")
    try:
        number = float(weight)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f'reward "{source}": expected SOURCE=WEIGHT with a number, found "{weight}"')
    return name, number


def _one(name: str, load_model: Callable[[str], Axis], handling: Handling) -> Axis:
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
        raise UserError(f'{what} "{name}": cannot import {module} ({shown_error(error)})') from error
    if not callable(found):
        raise UserError(f'{what} "{name}": {module} has no function {function}')
    return found
