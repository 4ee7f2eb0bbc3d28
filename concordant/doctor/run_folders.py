"""``concordant doctor TARGET`` for the folder of a run, and for the folder of a pipeline with all its stages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from concordant.config.names import METHODS
from concordant.config.yaml_io import load_yaml
from concordant.core.counted import counted
from concordant.core.errors import UserError
from concordant.data.folders import is_prepared
from concordant.doctor.files import diagnose_data, diagnose_model
from concordant.doctor.finding import Diagnosis, Finding, at_least
from concordant.doctor.foreign import diagnose_foreign
from concordant.doctor.monitor import ranked
from concordant.doctor.replay import replayed
from concordant.runs import status
from concordant.runs.foreign.formats import recognise
from concordant.runs.names import CONFIG, EVENTS, METRICS, PIPELINE, REPORT_JSON, STAGE_RECORD, STATUS
from concordant.runs.read import complaints, findings_of


def is_run(folder: Path) -> bool:
    return (folder / METRICS).is_file() or (folder / EVENTS).is_file()


def is_pipeline(folder: Path) -> bool:
    return (folder / PIPELINE).is_file()


def is_result(folder: Path) -> bool:
    """Whether a verb wrote the folder that trains nothing: best-of-n with its status, or evaluate with its report."""
    return (folder / STATUS).is_file() or (folder / REPORT_JSON).is_file()


def of_other_trainer(path: Path) -> Diagnosis | None:
    """The diagnosis of the log of another trainer at ``path``, a file or a folder; None if there is none.

    A metrics.jsonl is a run of ours if a config.yaml with a verb stands beside it; without one, its names decide. A
    folder that also holds a whole model, such as a checkpoint of TRL, is looked at as both.
    """
    folder = path.parent if path.is_file() else path
    if is_pipeline(folder) or is_result(folder) or _has_verb(folder) or not path.exists():
        return None
    found = recognise(path)
    if found is None:
        return None
    is_model = path.is_dir() and (path / "config.json").is_file()
    try:
        log = diagnose_foreign(*found)
    except UserError:
        if is_model:
            return None  # a trainer that logged nothing; the model can be looked at
        raise
    if is_model:
        return Diagnosis({"folder": str(path)}, [], {"log": log, "model": diagnose_model(str(path))})
    return log


def folder_of(path: Path) -> Path:
    """The run's folder, if ``path`` is the metrics.jsonl of a run of ours; else ``path``."""
    return path.parent if path.name == METRICS and path.is_file() and _has_verb(path.parent) else path


def _has_verb(folder: Path) -> bool:
    """Whether the folder's config.yaml is that of a verb of ours."""
    try:
        return (folder / CONFIG).is_file() and load_yaml(str(folder / CONFIG)).get("verb") in METHODS
    except UserError:
        return False


def diagnose_result(folder: Path) -> Diagnosis:
    """What the folder of a verb that trains nothing says of itself: there is nothing for a rule to look at."""
    return Diagnosis({"folder": str(folder), **_state(folder), "looked at": "only its state: it trains nothing"}, [])


def diagnose_run(folder: Path) -> Diagnosis:
    """What preflight found when the run began, and what the live rules say of its metrics today."""
    before = list(preflight_findings(folder))
    monitor = replayed(folder) if (folder / METRICS).is_file() else None
    live = list(monitor.findings.values()) if monitor else []
    damaged = complaints(folder)
    facts = {"run": str(folder), **_state(folder), **({"damaged": "; ".join(damaged)} if damaged else {})}
    return Diagnosis(facts, ranked(gravest([*before, *live])), unseen=monitor.unseen() if monitor else {})


def gravest(findings: Sequence[Finding]) -> list[Finding]:
    """Of several findings of one rule only the gravest, and of equally grave ones the first."""
    kept: dict[str, Finding] = {}
    for finding in findings:
        known = kept.get(finding.rule)
        if known is None or not at_least(known.severity, finding.severity):
            kept[finding.rule] = finding
    return list(kept.values())


def preflight_findings(folder: Path) -> Iterator[Finding]:
    """The findings in events.jsonl from before the first step, which metrics cannot show again."""
    for event in findings_of(folder):
        if event["step"] is None:
            yield Finding.from_event(event)


def diagnose_pipeline(folder: Path) -> Diagnosis:
    """Every stage that pipeline.yaml names: a run by its rules, prepared data by their records."""
    facts = {"pipeline": str(folder), **_state(folder)}
    listed = load_yaml(str(folder / PIPELINE)).get("stages")
    if not isinstance(listed, dict) or not listed:
        raise UserError(f'{folder / PIPELINE}: "stages" must map at least one name to its keys')
    return Diagnosis(facts, [], {str(name): _stage(folder / str(name)) for name in listed})


def _stage(folder: Path) -> Diagnosis:
    if not (folder / STAGE_RECORD).is_file():
        return Diagnosis({"stage": "not started"}, [])
    if is_run(folder):
        return diagnose_run(folder)
    if is_prepared(folder):
        found = diagnose_data(str(folder))
        return replace(found, facts={"data": found.facts["data"]})
    return diagnose_result(folder)


def _state(folder: Path) -> dict[str, str]:
    """What status.json says of the folder: ``finished, 40 of 40 steps``."""
    reading = status.read(folder) if (folder / STATUS).is_file() else None
    if reading is None:
        return {}
    now = reading.status
    done = f", {now.step} of {counted(now.total, 'stage' if now.verb == 'run' else 'step')}" if now.total else ""
    words = {"died": "its process died without an end", "unknown": f"it ran on {now.host}"}
    why = f": {now.message}" if now.message else ""
    return {"state": words.get(reading.life, now.state) + done + why}
