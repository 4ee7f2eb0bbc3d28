"""``concordant doctor TARGET`` for a log of another trainer: TRL, verl, OpenRLHF, LLaMA-Factory, transformers.

``history_of`` is the connection between such a log and the rules. A rule whose numbers the log has runs as it does for
a run of ours. The other rules are listed with the numbers that they lack, so that "nothing found" is never said of a
log in which most rules had nothing to look at.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from concordant.config.names import METHODS
from concordant.doctor.finding import Diagnosis, Finding
from concordant.doctor.history import Change, Column, History
from concordant.doctor.monitor import Monitor
from concordant.doctor.rules import RULES
from concordant.runs.foreign.formats import Format, read_foreign
from concordant.runs.foreign.log import ForeignLog
from concordant.runs.foreign.names import in_their_words

_MANY = 40  # rows that the rules about a run's course want
_SHOWN = 12  # foreign metrics that are named; the others are counted


def diagnose_foreign(path: Path, form: Format) -> Diagnosis:
    """What the rules say of the log at ``path``, and which rules lack their numbers."""
    log = read_foreign(path, form)
    monitor = Monitor(log.config)
    for row in log.rows:
        monitor.see(row)
    findings = [_in_their_words(finding, log.framework) for finding in monitor.ranked()]
    return Diagnosis(_facts(log), findings, unseen=unseen(log))


def history_of(log: ForeignLog) -> Seeking:
    """The whole log as a history that notes which numbers a rule asked for in vain."""
    history = Seeking(log.config)
    for row in log.rows:
        history.add(row)
    return history


class Seeking(History):
    """A history that notes every metric that was asked for and is not there, or has too few values."""

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self.missing: dict[str, str] = {}  # metric: what is missing, in words
        self._columns = _Columns(self.missing)

    def now(self, name: str, rows: int = 8) -> float | None:
        found = super().now(name, rows)
        if found is None:
            self._note(name, rows)
        return found

    def start(self, name: str, rows: int = 8) -> float | None:
        found = super().start(name, rows)
        if found is None:
            self._note(name, rows)
        return found

    def change(self, name: str, rows: int = 8) -> Change | None:
        found = super().change(name, rows)
        if found is None:
            self._note(name, 2 * rows)
        return found

    def at(self, name: str, step: int) -> float | None:
        found = super().at(name, step)
        if found is None:
            self.missing.setdefault(name, f"{name} at step {step}")
        return found

    def _note(self, name: str, needed: int) -> None:
        count = len(self.values(name))
        if count < needed:
            self.missing.setdefault(name, f"{needed} rows of {name} (the log has {count})")


class _Columns(dict[str, Column]):
    """The columns of a history; ``get`` notes a name that is not there."""

    def __init__(self, missing: dict[str, str]) -> None:
        super().__init__()
        self.missing = missing

    def get(self, name: str, default: Any = None) -> Any:
        if name not in self:
            self.missing.setdefault(name, name)
        return super().get(name, default)


def unseen(log: ForeignLog) -> dict[str, str]:
    """The rules of the log's method that could not look, each with the numbers that it lacks.

    A rule counts as such if it asked for a number that the log has not, and found nothing with the others.
    """
    if log.verb not in METHODS:
        return {rule.name: "a known method" for rule in RULES}
    history, lacking = history_of(log), dict[str, str]()
    for rule in RULES:
        if log.verb in rule.stages:
            history.missing.clear()
            if rule(history) is None and history.missing:
                lacking[rule.name] = ", ".join(history.missing.values())
    return lacking


def _in_their_words(finding: Finding, framework: str) -> Finding:
    return replace(
        finding, cause=in_their_words(finding.cause, framework), cure=in_their_words(finding.cure, framework)
    )


def _of(method: str) -> str:
    """``a DPO run``, ``an SFT run``."""
    if not method:
        return "an unknown method"
    name = {"reward": "reward-model", "online-dpo": "Online-DPO"}.get(method, method.upper())
    return f"{'an' if name[0] in 'AEIOSR' else 'a'} {name} run"


def _facts(log: ForeignLog) -> dict[str, str]:
    steps = [int(row["step"]) for row in log.rows]
    facts = {
        "log": str(log.path),
        "kind": f"{log.framework or 'unknown'} log of {_of(log.method)}, read as {log.form}",
        "guessed": log.because,
        "rows": f"{len(steps)}, steps {steps[0]} to {steps[-1]}",
    }
    known = "; ".join(f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in _flat(log))
    facts |= {"settings": known} if known else {}
    if log.assumed:
        facts["assumed"] = (
            ", ".join(f"{key} {value}" for key, value in log.assumed.items()) + " (the trainer's defaults)"
        )
    if len(steps) < _MANY:
        facts["few rows"] = f"some rules compare up to {_MANY} rows, and find nothing in fewer"
    facts |= log.facts
    if others := log.others:
        more = f", and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
        facts["not used"] = ", ".join(others[:_SHOWN]) + more
    facts |= {"damaged": log.damage} if log.damage else {}
    return facts


def _flat(log: ForeignLog) -> Iterator[tuple[str, Any]]:
    """The known settings by dotted key, without the verb and what was assumed."""

    def walk(mapping: Any, prefix: str) -> Iterator[tuple[str, Any]]:
        for key, value in mapping.items():
            if isinstance(value, dict):
                yield from walk(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}", value

    return ((key, value) for key, value in walk(log.config, "") if key != "verb" and key not in log.assumed)
