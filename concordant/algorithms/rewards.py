"""Where PPO's and best-of-n's rewards come from: a model, a rule, any Python function, or a weighted sum of them."""

from __future__ import annotations

import importlib
import inspect
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, Protocol

from concordant.core.errors import UserError, unknown_name
from concordant.data.records import Message

Dialogue = tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a reward may look at."""

    prompt: Dialogue
    response: str  # text without the end token
    ended: bool  # an end token was sampled
    extra: dict[str, Any]  # the prompt's own columns: ground_truth, data_source, …


class Reward(Protocol):
    def __call__(self, answers: Sequence[Answer]) -> list[float]:
        """One number an answer, higher is better."""
        ...


@dataclass(frozen=True)
class FunctionReward:
    """A Python function ``f(prompt, response, **extra)`` of one answer; the keywords it names are passed."""

    function: Callable[..., float]
    name: str

    def __call__(self, answers: Sequence[Answer]) -> list[float]:
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
        return scores


@dataclass(frozen=True)
class WeightedSum:
    parts: tuple[tuple[float, Reward], ...]

    def __call__(self, answers: Sequence[Answer]) -> list[float]:
        return self.total(self.columns(answers))

    def columns(self, answers: Sequence[Answer]) -> list[list[float]]:
        """Each part's own scores, unweighted."""
        return [reward(answers) for _, reward in self.parts]

    def total(self, columns: Sequence[Sequence[float]]) -> list[float]:
        weights = [weight for weight, _ in self.parts]
        return [sum(w * x for w, x in zip(weights, row, strict=True)) for row in zip(*columns, strict=True)]


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


def make_reward(sources: Sequence[str], load_model: Callable[[str], Reward]) -> Reward:
    """The reward that ``sources`` name, each with an optional ``=weight`` (1 by default).

    A source is ``rule:NAME``, ``module:function``, or a reward model's folder, hub id or ``package:NAME/FOLDER``.
    """
    if not sources:
        raise UserError("no reward given: expected --reward with a reward model's folder, module:function or rule:NAME")
    parts = []
    for source in sources:
        name, weight = _split_weight(source)
        parts.append((weight, _one(name, load_model)))
    return parts[0][1] if len(parts) == 1 and parts[0][0] == 1.0 else WeightedSum(tuple(parts))


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


def _one(name: str, load_model: Callable[[str], Reward]) -> Reward:
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
