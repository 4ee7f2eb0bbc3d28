"""Reads the rows and findings of a run folder. A damaged file raises no error; ``complaints`` reports its damage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from concordant.runs.logs import Log, Row, read_json, read_log
from concordant.runs.metrics import older_name
from concordant.runs.names import EVENTS, METRICS, REWARD_SUMMARY, SAMPLES, FindingRow, Split


def metrics_of(folder: Path) -> Log:
    """The rows of metrics.jsonl, unchanged."""
    return read_log(folder / METRICS, "step")


def samples_of(folder: Path, split: Split = "eval") -> list[Row]:
    """Rows of samples.jsonl: answers to held-out prompts ("eval"), or answers on which a step trained ("train")."""
    return [row for row in read_log(folder / SAMPLES, "step").rows if row.get("split") == split]


def findings_of(folder: Path) -> list[FindingRow]:
    """The doctor's findings in this run, unchanged. An event that lacks a part of a finding is left out."""
    needed = FindingRow.__required_keys__
    rows = read_log(folder / EVENTS).rows
    return [cast(FindingRow, row) for row in rows if row.get("kind") == "finding" and needed <= row.keys()]


def start_of(folder: Path) -> Row:
    """The event "start" of this run: what it starts from and what is usual for that; empty if there is none."""
    starts = [row for row in read_log(folder / EVENTS).rows if row.get("kind") == "start"]
    return starts[-1] if starts else {}


def reward_summary_of(folder: Path) -> Mapping[str, Any]:
    """The contents of reward_model.json; empty before the run has measured its reward model."""
    found = read_json(folder / REWARD_SUMMARY)
    return found if isinstance(found, dict) else {}


def complaints(folder: Path) -> list[str]:
    """A sentence for each log of the folder that has damaged lines."""
    logs = {name: read_log(folder / name, "" if name == EVENTS else "step") for name in (METRICS, SAMPLES, EVENTS)}
    return [said for name, log in logs.items() if (said := log.complaint(folder / name))]


def written_by_older_version(rows: Iterable[Row]) -> str:
    """The first metric that has a name of an earlier version; "" if there is none."""
    return next((name for row in rows for name in row if older_name(name)), "")
