"""Where PPO's and best-of-n's rewards come from: named axes, each a model, a rule or any Python function, and an
aggregator that makes one number of them."""

from __future__ import annotations

import importlib
import inspect
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, Protocol

from concordant.core.errors import UserError, unknown_name
from concordant.data.records import Message, Tools
from concordant.engines.protocol import Done, Future

Dialogue = tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a reward may look at."""

    prompt: Dialogue
    response: str  # text without the end token
    ended: bool  # an end token was sampled
    extra: dict[str, Any]  # the prompt's own columns: ground_truth, data_source, …
    tools: Tools = None  # the prompt's, for a reward model's chat template


class Axis(Protocol):
    """One thing that an answer is judged by."""

    def __call__(self, answers: Sequence[Answer]) -> Future[list[float]]:
        """One number an answer, higher is better."""
        ...


Columns = Mapping[str, Sequence[float]]  # by axis, one number an answer
Aggregator = Callable[[Columns], list[float]]


@dataclass(frozen=True)
class WeightedSum:
    """The aggregator that ``--reward A=2 --reward B=-0.5`` asks for."""

    weights: Mapping[str, float]  # by axis

    def __call__(self, columns: Columns) -> list[float]:
        rows = zip(*(columns[axis] for axis in self.weights), strict=True)
        return [sum(w * x for w, x in zip(self.weights.values(), row, strict=True)) for row in rows]


@dataclass(frozen=True, slots=True)
class Scores:
    columns: dict[str, list[float]]  # by axis, as the axis gave them
    total: list[float]  # one number an answer, what is to be raised


@dataclass(frozen=True, slots=True)
class PendingScores:
    """Scores whose axes are at work."""

    columns: dict[str, Future[list[float]]]
    aggregate: Aggregator

    def result(self) -> Scores:
        columns = {axis: column.result() for axis, column in self.columns.items()}
        return Scores(columns, self.aggregate(columns))


@dataclass(frozen=True)
class Reward:
    axes: Mapping[str, Axis]
    aggregate: Aggregator

    @classmethod
    def of(cls, name: str, axis: Axis) -> Reward:
        """A reward of one axis alone."""
        return cls({name: axis}, WeightedSum({name: 1.0}))

    def __call__(self, answers: Sequence[Answer]) -> Future[Scores]:
        return PendingScores({name: axis(answers) for name, axis in self.axes.items()}, self.aggregate)


@dataclass(frozen=True)
class FunctionReward:
    """A Python function ``f(prompt, response, **extra)`` of one answer; the keywords it names are passed."""

    function: Callable[..., float]
    name: str

    def __call__(self, answers: Sequence[Answer]) -> Done[list[float]]:
        parameters = inspect.signature(self.function).parameters
        taken = list(parameters)[:2]  # prompt and response, which a column of that name does not replace
        takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        scores: list[float] = []
        for a in answers:
            offered = {k: v for k, v in {**a.extra, "ended": a.ended}.items() if k not in taken}
            keywords = offered if takes_all else {k: v for k, v in offered.items() if k in parameters}
            score = self.function(a.prompt, a.response, **keywords)
            if not isinstance(score, Real) or not math.isfinite(score):
                raise UserError(
                    f"reward {self.name} returned {score!r} for {a.response!r}: a finite number is expected"
                )
            scores.append(float(score))
        return Done(scores)


def _truth(extra: dict[str, Any]) -> str:
    """verl keeps the answer in ``reward_model.ground_truth``, flat files in ``ground_truth`` or ``answer``."""
    nested = extra.get("reward_model")
    truth = nested.get("ground_truth") if isinstance(nested, dict) else None
    truth = extra.get("ground_truth", extra.get("answer")) if truth is None else truth
    if truth is None:
        raise UserError(
            f"a rule needs ground_truth beside the prompt; found columns: {sorted({*extra} - {'ended'}) or 'none'}"
        )
    return str(truth).strip()


def exact_match(prompt: Dialogue, response: str, **extra: Any) -> float:
    """1 when the response is the ground truth, else 0."""
    return float(response.strip() == _truth(extra))


def contains(prompt: Dialogue, response: str, **extra: Any) -> float:
    """1 when the ground truth stands in the response, else 0."""
    return float(_truth(extra) in response)


def ends(prompt: Dialogue, response: str, ended: bool) -> float:
    """1 when the response ended by itself, else 0."""
    return float(ended)


RULES: dict[str, Callable[..., float]] = {"exact_match": exact_match, "contains": contains, "ends": ends}


def make_reward(sources: Sequence[str], load_model: Callable[[str], Axis]) -> Reward:
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
        axes[axis], weights[axis] = _one(name, load_model), weight
    return Reward(axes, WeightedSum(weights))


def _split_weight(source: str) -> tuple[str, float]:
    name, equals, weight = source.rpartition("=")
    if not equals or Path(source).exists():
        return source, 1.0
    try:
        number = float(weight)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f'reward "{source}": expected SOURCE=WEIGHT with a number, found "{weight}"')
    return name, number


def _one(name: str, load_model: Callable[[str], Axis]) -> Axis:
    if name.startswith("rule:"):
        rule = name.removeprefix("rule:")
        if rule not in RULES:
            raise unknown_name("rule", rule, RULES)
        return FunctionReward(RULES[rule], name)
    module, colon, function = name.partition(":")
    if colon and not name.startswith("package:") and not Path(name).exists():
        return FunctionReward(_import(module, function), name)
    return load_model(name)


def _import(module: str, function: str) -> Callable[..., float]:
    here = str(Path.cwd())
    if here not in sys.path:  # as `python -m` does: the module may lie beside where the command is typed
        sys.path.append(here)
    try:
        found = vars(importlib.import_module(module)).get(function)
    except ImportError as error:
        raise UserError(f'reward "{module}:{function}": cannot import {module} ({error})') from error
    if not callable(found):
        raise UserError(f'reward "{module}:{function}": {module} has no function {function}')
    return found
