"""What the doctor says: seen, why it matters, likely cause, cure. One form for preflight, live rules and files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Severity = Literal["info", "warning", "error"]
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "error")  # mildest first


@dataclass(frozen=True, slots=True)
class Finding:
    """One diagnosis. ``rule`` is its name, and of the page that explains it: ``docs/doctor/<rule>.md``."""

    rule: str
    severity: Severity
    seen: str  # the evidence, with its numbers
    why: str  # what goes wrong if nothing is done
    cause: str  # the likely one
    cure: str  # the setting to change, with a value
    step: int | None = None  # steps taken when it was seen; None before the first, or for a file
    numbers: Mapping[str, float] = field(default_factory=dict)  # the evidence, to compute with

    @property
    def page(self) -> str:
        return f"docs/doctor/{self.rule}.md"

    def as_event(self) -> dict[str, Any]:
        """A line of ``events.jsonl``."""
        return {"kind": "finding", **asdict(self), "numbers": dict(self.numbers), "page": self.page}

    @classmethod
    def from_event(cls, event: Mapping[str, Any]) -> Finding:
        """The finding that ``as_event`` wrote."""
        return cls(**{name: event[name] for name in cls.__slots__})


def at_least(severity: Severity, floor: Severity) -> bool:
    """Whether ``severity`` is as grave as ``floor`` or graver."""
    return SEVERITIES.index(severity) >= SEVERITIES.index(floor)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was looked at, in words, and what is wrong with it."""

    facts: Mapping[str, str]
    findings: list[Finding]
