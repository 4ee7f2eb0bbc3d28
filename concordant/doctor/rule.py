"""A rule of the doctor: a pure function that takes a run's history and returns a finding or None."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from concordant.doctor.catalogue import limits
from concordant.doctor.finding import Finding, Severity
from concordant.doctor.history import History

ALL = ("sft", "reward", "dpo", "ppo", "distill")
GIVEN = ("sft", "reward", "dpo")  # stages that learn from given answers
PAIRS = ("reward", "dpo")
DPO = ("dpo",)
PPO = ("ppo",)
CHANCE = math.log(2)  # nats: the loss of a model that ranks pairs by chance
Limits = Mapping[str, float]  # the thresholds of a rule by name, from the table of its page
EARLY = 0.25  # share of a run; before it, it is too early for most rules
HALF = 0.5  # share of a run; before it, hard data or a low learning rate can look as if nothing were learnt

# How much the evidence of a rule speaks for its cause. Where several rules speak, the greatest weight comes first.
MEASURED = 0.9  # the cause itself was measured
SETTING = 0.8  # a setting is far from its usual range, and the run shows its effect
EFFECT = 0.6  # an effect was measured that has few other causes
SYMPTOM = 0.3  # something is wrong, and the rule does not know why


@dataclass(frozen=True, slots=True)
class Sign:
    """The result of a check: the part of a finding that differs between runs."""

    severity: Severity
    seen: str  # the evidence, with its numbers
    cause: str
    cure: str  # the setting to change, with a value
    numbers: Mapping[str, float] = field(default_factory=dict)
    weight: float | None = None  # where this evidence speaks more, or less, for its cause than the rule's usual one


@dataclass(frozen=True, slots=True)
class Rule:
    """A row of the doctor's rules. Its thresholds, and what does not differ between runs, are on the page ``name``."""

    name: str
    stages: tuple[str, ...]
    weight: float
    check: Callable[[History, Limits], Sign | None]

    @property
    def is_symptom(self) -> bool:
        """Whether the rule says that something is wrong but not why. It is silent if a cause is known."""
        return self.weight <= SYMPTOM

    def __call__(self, history: History) -> Finding | None:
        if history.stage not in self.stages:
            return None
        sign = self.check(history, limits(self.name))
        if sign is None:
            return None
        numbers = {name: float(value) for name, value in sign.numbers.items()}
        weight = sign.weight or self.weight
        return Finding(self.name, sign.severity, sign.seen, sign.cause, sign.cure, history.step, numbers, weight)

    def lacks(self, history: History) -> list[str]:
        """The metrics that the rule asked for and ``history`` does not have; empty if the rule could look."""
        if history.stage not in self.stages:
            return []
        history.missing.clear()
        return [] if self.check(history, limits(self.name)) else sorted(history.missing)
