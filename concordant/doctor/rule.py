"""A rule of the doctor: a pure function that takes a run's history and returns a finding or None."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from concordant.doctor.finding import Finding, Severity
from concordant.doctor.history import History

ALL = ("sft", "reward", "dpo", "ppo")
CHANCE = math.log(2)  # nats: the loss of a model that ranks pairs by chance
EARLY = 0.25  # share of a run; before it, it is too early for most rules
HALF = 0.5  # share of a run; before it, hard data or a low learning rate can look as if nothing were learnt


@dataclass(frozen=True, slots=True)
class Sign:
    """The result of a check: the part of a finding that differs between runs."""

    severity: Severity
    seen: str  # the evidence, with its numbers
    cause: str
    cure: str  # the setting to change, with a value
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rule:
    """``is_symptom``: the rule says that something is wrong but not why. It is silent if a cause is known."""

    name: str
    stages: tuple[str, ...]
    why: str  # what goes wrong if nothing is done
    check: Callable[[History], Sign | None]
    is_symptom: bool = False

    def __call__(self, history: History) -> Finding | None:
        if history.stage not in self.stages:
            return None
        sign = self.check(history)
        if sign is None:
            return None
        numbers = {name: float(value) for name, value in sign.numbers.items()}
        return Finding(self.name, sign.severity, sign.seen, self.why, sign.cause, sign.cure, history.step, numbers)
