"""What a rule of the doctor is: a pure function from a run's history to what is wrong with it, or nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from concordant.doctor.finding import Finding, Severity
from concordant.doctor.history import History

ALL = ("sft", "reward", "dpo", "ppo")
CHANCE = math.log(2)  # nats: the pair loss of a coin
EARLY = 0.25  # of a run: before it nothing has had its time
HALF = 0.5  # of a run: before it hard data and a careful rate look like nothing being learnt


@dataclass(frozen=True, slots=True)
class Sign:
    """What a check saw: the part of a finding that differs from run to run."""

    severity: Severity
    seen: str  # the evidence, with its numbers
    cause: str
    cure: str  # the setting to change, with a value
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rule:
    """``is_symptom``: it says that something is wrong and not what; unsaid where a cause is known."""

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
