"""The doctor's findings in training runs, read from events.jsonl, as a section of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from concordant.report.blocks import Block, Bullets, Heading, Paragraph
from concordant.runs.read import findings_of

Event = Mapping[str, Any]  # a line of events.jsonl whose kind is "finding"


def read_findings(folder: Path) -> list[Event]:
    """The findings in ``folder``/events.jsonl, errors first, then in order; an empty list if there is no file."""
    return sorted(findings_of(folder), key=lambda event: _ORDER.get(event["severity"], 0))


def findings_blocks(findings: Mapping[str, Sequence[Event]]) -> list[Block]:
    """One bullet for each finding, by run. A run without findings gets a bullet too."""
    if not findings:
        return []
    lines = []
    for run, events in findings.items():
        lines += [f"{run}, {_when(e)}, {e['severity']}: {_sentence(e)}" for e in events]
        if not events:
            lines.append(f"{run}: nothing found")
    return [Heading("Findings of the doctor in the runs"), Paragraph(_WHAT), Bullets(tuple(lines))]


_ORDER = {"error": -2, "warning": -1}
_WHAT = "The doctor looks for known failures during a run. Each line has what was seen, its likely cause and its cure."


def _when(event: Event) -> str:
    return "before its first step" if event["step"] is None else f"step {event['step']}"


def _sentence(event: Event) -> str:
    more = f"concordant doctor --explain {event['rule']}"
    return f"{event['seen']}. Likely cause: {event['cause']}. {event['cure']} ({more})."
