"""What the list of runs says about a run: status, progress, time left, and the doctor's findings."""

from __future__ import annotations

import threading
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from concordant.config.yaml_io import load_yaml
from concordant.core.errors import UserError
from concordant.runs.names import CONFIG, EVENTS, PIPELINE, STATUS, FindingRow
from concordant.runs.read import findings_of
from concordant.runs.status import read
from concordant.studio.columns import Cache
from concordant.studio.folders import has_samples, stamp

_RECENT = 50  # rows of metrics from which the time left is estimated


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One run. Times are ISO 8601 in UTC; "" and None mean "not known"."""

    run: str
    verb: str = ""
    life: str = "unknown"  # running | finished | stopped | failed | died | unknown
    state: str = ""  # preparing | training | evaluating | …
    stage: str = ""  # of a pipeline
    within: str = ""  # how far the work within a long step is
    step: int = 0
    total: int = 0
    seconds_left: float | None = None
    started: str = ""
    updated: str = ""
    message: str = ""
    rows: int = 0  # of metrics.jsonl
    samples: bool = False
    can_resume: bool = False
    findings: dict[str, int] = field(default_factory=dict)  # the number of findings by severity

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class Summaries:
    """Reads summaries. Files that have not changed are not read again."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._findings: dict[Path, tuple[tuple[int, int, int], list[FindingRow]]] = {}
        self._configs: dict[Path, tuple[tuple[int, int, int], dict[str, Any]]] = {}
        self._lock = threading.Lock()

    def of(self, name: str, folder: Path) -> Summary:
        reading, columns = read(folder), self._cache.of(folder)
        counts: dict[str, int] = {}
        for finding in self.findings(folder):
            counts[finding["severity"]] = counts.get(finding["severity"], 0) + 1
        facts: dict[str, Any] = {"rows": columns.rows, "samples": has_samples(folder), "findings": counts}
        if reading is None:
            return Summary(run=name, verb=str(self.config(folder).get("verb", "")), step=_step(columns.last), **facts)
        status = reading.status
        left = None
        if reading.life == "running":
            left = _seconds_left(columns.columns, status.step, status.total)
        is_whole = (folder / CONFIG).is_file() or (folder / PIPELINE).is_file()
        return Summary(
            run=name,
            verb=status.verb or str(self.config(folder).get("verb", "")),
            life=reading.life,
            state=status.state,
            stage=status.stage,
            within=status.within,
            step=_whole(status.step),
            total=_whole(status.total),
            seconds_left=left,
            started=str(status.started),
            updated=str(status.updated),
            message=str(status.message),
            can_resume=is_whole and reading.life in ("stopped", "died", "failed"),
            **facts,
        )

    def findings(self, folder: Path) -> list[FindingRow]:
        """The doctor's findings of a run."""
        path = folder / EVENTS
        with self._lock:
            now, known = stamp(path), self._findings.get(folder)
            if known is None or known[0] != now:
                known = self._findings[folder] = (now, findings_of(folder))
            return known[1]

    def config(self, folder: Path) -> dict[str, Any]:
        """The contents of config.yaml, or of a pipeline's file; empty if it cannot be read."""
        path = next((folder / name for name in (CONFIG, PIPELINE) if (folder / name).is_file()), folder / CONFIG)
        with self._lock:
            now, known = stamp(path), self._configs.get(folder)
            if known is None or known[0] != now:
                try:
                    found = load_yaml(path)
                except UserError:
                    found = {}
                known = self._configs[folder] = (now, found)
            return known[1]

    def stamp(self, folder: Path) -> tuple[object, ...]:
        """What changes when one of the run's files changes."""
        return (stamp(folder / STATUS), stamp(folder / EVENTS), self._cache.of(folder).rows)


def _seconds_left(columns: dict[str, Any], step: int, total: int) -> float | None:
    """Steps left times the mean time of the recent steps, evaluations included; None if it cannot be said."""
    steps = columns.get("seconds/step")
    if not steps or not isinstance(step, int) or not isinstance(total, int) or total <= step:
        return None
    recent = [value for value in steps.values[-_RECENT:] if value == value]
    if not recent:
        return None
    first, last = steps.steps[-len(recent)], steps.steps[-1]
    a_step = sum(recent) / len(recent)
    if (evaluations := columns.get("seconds/evaluate")) and last > first:
        pairs = zip(evaluations.steps, evaluations.values, strict=True)
        a_step += sum(value for at, value in pairs if at > first and value == value) / (last - first)
    return a_step * (total - step)


def _step(row: dict[str, Any]) -> int:
    return _whole(row.get("step", 0))


def _whole(value: Any) -> int:
    return int(value) if isinstance(value, int | float) and value == value and abs(value) < 2**53 else 0
