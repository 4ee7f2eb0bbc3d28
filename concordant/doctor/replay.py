"""A finished run read back through the live rules: what the doctor would have said, or would say today."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from concordant.config.yaml_io import load_yaml
from concordant.core.errors import UserError
from concordant.doctor.finding import Finding
from concordant.doctor.history import Beside
from concordant.doctor.monitor import Monitor
from concordant.runs.logs import Row
from concordant.runs.metrics import DOCTOR
from concordant.runs.names import CONFIG, METRICS
from concordant.runs.read import (
    findings_of,
    metrics_of,
    reward_summary_of,
    samples_of,
    start_of,
    written_by_older_version,
)


def diagnose(folder: Path) -> list[Finding]:
    """The findings of the live rules in the run in ``folder``, likely root causes first. See ``replayed``."""
    return replayed(folder).ranked()


def replayed(folder: Path) -> Monitor:
    """The doctor after the last row of the run in ``folder``.

    Raises UserError where there is no metrics.jsonl, or where an older version wrote it.
    """
    if not (folder / METRICS).is_file():
        raise UserError(f"{folder} is not a run folder: it has no {METRICS}")
    monitor = monitor_of(folder)
    for row in rows(folder):
        monitor.see(row)
    return monitor


def monitor_of(folder: Path) -> Monitor:
    """A doctor who knows the run's settings and can look at its samples, and has seen no step yet."""
    config = folder / CONFIG
    beside = Beside(
        samples=lambda: samples_of(folder),
        results=lambda: reward_summary_of(folder),
        start=cache(lambda: start_of(folder)),
        before=cache(lambda: {e["rule"]: e["numbers"] for e in findings_of(folder) if e["step"] is None}),
    )
    return Monitor(load_yaml(str(config)) if config.is_file() else {}, beside)


def rows(folder: Path) -> list[Row]:
    """The rows of the run's metrics.jsonl.

    Raises UserError where an older version wrote them: the rules would find nothing under the names they look for, and
    a sick run would seem healthy.
    """
    found = metrics_of(folder).rows
    if old := written_by_older_version(found):
        raise UserError(
            f'{folder / METRICS} was written by an older version: it has "{old}", which is "{DOCTOR}{old}" today. '
            "The doctor of the version that trained the run can read it"
        )
    return found
