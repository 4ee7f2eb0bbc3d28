"""``concordant doctor TARGET`` for a log of another trainer: TRL, verl, OpenRLHF, LLaMA-Factory, transformers.

``monitor_of`` is the connection between such a log and the rules. A rule whose numbers the log has runs as it does for
a run of ours. The other rules are listed with the numbers that they lack, so that "nothing found" is never said of a
log in which most rules had nothing to look at.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from concordant.config.fields import unnest
from concordant.config.names import METHODS
from concordant.doctor.finding import Diagnosis, Finding
from concordant.doctor.history import Beside
from concordant.doctor.monitor import Monitor
from concordant.doctor.rules import RULES
from concordant.runs.foreign.formats import Format, read_foreign
from concordant.runs.foreign.log import ForeignLog
from concordant.runs.foreign.names import in_their_words
from concordant.training.defaults import STEPS

_MANY = 40  # rows that the rules about a run's course want
_SHOWN = 12  # foreign metrics that are named; the others are counted


def diagnose_foreign(path: Path, form: Format) -> Diagnosis:
    """What the rules say of the log at ``path``, and which rules lack their numbers."""
    log = read_foreign(path, form)
    monitor = monitor_of(log)
    findings = [_in_their_words(finding, log.framework) for finding in monitor.ranked()]
    return Diagnosis(_facts(log), findings, unseen=unseen(log, monitor))


def monitor_of(log: ForeignLog) -> Monitor:
    """The doctor after the last row of the log."""
    last = max((int(row["step"]) for row in log.rows), default=0)
    steps = log.config.get("train", {}).get("max_steps") or last
    start = {"steps": steps, "steps_needed": STEPS[log.verb]} if log.verb in STEPS else {}
    monitor = Monitor(log.config, Beside(start=lambda: start))
    for row in log.rows:
        monitor.see(row)
    return monitor


def unseen(log: ForeignLog, monitor: Monitor) -> dict[str, str]:
    """The rules of the log's method that could not look, each with the numbers that it lacks."""
    return monitor.unseen() if log.verb in METHODS else {rule.name: "a known method" for rule in RULES}


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
    return ((key, value) for key, value in unnest(log.config).items() if key != "verb" and key not in log.assumed)
