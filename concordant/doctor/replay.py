"""A finished run read back through the live rules: what the doctor would have said, or would say today."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from concordant.config.yaml_io import load_yaml
from concordant.core.errors import UserError
from concordant.doctor.finding import Finding
from concordant.doctor.monitor import Monitor
from concordant.training.run_folder import METRICS, SAMPLES


def diagnose(folder: Path) -> list[Finding]:
    """The findings of the run in ``folder``, likely root causes first.

    Raises UserError where there is no metrics.jsonl, or a line of it is no row of metrics.
    """
    if not (folder / METRICS).is_file():
        raise UserError(f"{folder} is not a run folder: it has no {METRICS}")
    monitor = monitor_of(folder)
    for row in rows(folder / METRICS):
        monitor.see(row)
    return monitor.ranked()


def monitor_of(folder: Path) -> Monitor:
    """A doctor who knows the run's settings and can look at its samples, and has seen no step yet."""
    config = folder / "config.yaml"
    return Monitor(load_yaml(str(config)) if config.is_file() else {}, lambda: list(rows(folder / SAMPLES)))


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a ``.jsonl`` log with a step; a last line that a kill cut short is left out."""
    if not path.is_file():
        return
    lines = path.read_bytes().decode("utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            row = None
        if isinstance(row, dict) and isinstance(row.get("step"), int | float):
            yield row
        elif number < len(lines):
            raise UserError(f'{path} line {number}: expected a JSON object with a "step", found {line[:60]!r}')
