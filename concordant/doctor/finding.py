"""What the doctor says: seen, why it matters, likely cause, cure. One form for preflight, live rules and files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from concordant.doctor import catalogue

Severity = Literal["info", "warning", "error"]
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "error")  # mildest first


@dataclass(frozen=True, slots=True)
class Finding:
    """One diagnosis. ``rule`` is its name and the name of the page that explains it."""

    rule: str
    severity: Severity
    seen: str  # the evidence, with its numbers
    cause: str  # the likely one
    cure: str  # the setting to change, with a value
    step: int | None = None  # steps taken when it was seen; None before the first, or for a file
    numbers: Mapping[str, float] = field(default_factory=dict)  # the evidence, to compute with
    weight: float = 0.5  # 0 to 1: how much the evidence speaks for this cause and against others

    @property
    def why(self) -> str:
        """What goes wrong if nothing is done, from the catalogue."""
        return catalogue.entry(self.rule).why

    @property
    def make_sure(self) -> str:
        """What tells this cause from another one that fits as well, from the catalogue; "" where nothing is needed."""
        return catalogue.entry(self.rule).make_sure

    @property
    def page(self) -> str:
        """The path of the page below the address of the documentation."""
        return f"doctor/{self.rule}/"

    @property
    def command(self) -> str:
        """The command that prints the page."""
        return f"concordant doctor --explain {self.rule}"

    def as_event(self) -> dict[str, Any]:
        """A line of ``events.jsonl``."""
        return {"kind": "finding", **asdict(self), "numbers": dict(self.numbers), "why": self.why, "page": self.page}

    @classmethod
    def from_event(cls, event: Mapping[str, Any]) -> Finding:
        """The finding that ``as_event`` wrote; one of an earlier version has no weight."""
        return cls(**{name: event[name] for name in cls.__slots__ if name in event})


def at_least(severity: Severity, floor: Severity) -> bool:
    """Whether ``severity`` is as grave as ``floor`` or graver."""
    return SEVERITIES.index(severity) >= SEVERITIES.index(floor)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was looked at, in words, and what is wrong with it; for a pipeline's folder also each stage."""

    facts: Mapping[str, str]
    findings: list[Finding]
    stages: Mapping[str, Diagnosis] = field(default_factory=dict)
    unseen: Mapping[str, str] = field(default_factory=dict)  # rules that did not run: the numbers that they lack

    @property
    def all_findings(self) -> list[Finding]:
        """The findings of this and of every stage."""
        return [*self.findings, *(finding for stage in self.stages.values() for finding in stage.all_findings)]

    @property
    def all_unseen(self) -> dict[str, str]:
        """``unseen`` of this and of every stage, each rule with the name of its stage."""
        of_stages = {f"{n}: {rule}": x for n, stage in self.stages.items() for rule, x in stage.all_unseen.items()}
        return {**self.unseen, **of_stages}
