"""Runs a plan. A stage with unchanged inputs is kept, an interrupted stage continues, and other stages start again."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rich.table import Table
from rich.text import Text

from concordant.config.yaml_io import dump_yaml
from concordant.core.alive import heard_by
from concordant.core.errors import RunFailed, RunStopped, UserError
from concordant.core.visible import visible
from concordant.pipeline.fingerprint import fingerprint
from concordant.pipeline.plan import Stage, check
from concordant.runs.atomic import temporary_name, write_text
from concordant.runs.lock import FolderLock
from concordant.runs.logs import json_line, read_json
from concordant.runs.names import ADAPTER, ASKED, LOCK, MODEL, PIPELINE, STAGE_RECORD
from concordant.runs.status import StatusWriter
from concordant.training.interrupt import late_request
from concordant.training.progress import Display, current, duration, use
from concordant.verbs import call

# Files that a kill may leave before there is a record, or after a record was removed.
_OURS = (LOCK, ASKED, temporary_name(STAGE_RECORD))


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The contents of ``OUTPUT/<stage>/stage.json``, which describes the folder."""

    fingerprint: str
    verb: str
    done: bool
    seconds: float = 0.0
    result: str = ""  # path of the model or other result; relative to the folder if it is inside


@dataclass(frozen=True, slots=True, kw_only=True)
class StageReport:
    name: str
    verb: str
    outcome: Literal["ran", "continued", "kept"]
    seconds: float  # how long the stage took when it ran
    folder: Path


def run_pipeline(
    stages: Sequence[Stage],
    output: Path,
    do: Callable[[str, Any], Path | None] = call,
    display: Display | None = None,
) -> list[StageReport]:
    """Run ``stages`` in order, each in ``output/<name>``. ``do(verb, config)`` does one and returns its result's path.

    An error of a stage is raised with the stage's name in front. The stages that are done are kept and not run again.
    """
    check(stages, output)
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock = FolderLock(output)
    except OSError as problem:
        raise UserError(f"cannot write to {output}: {problem.strerror}") from None
    try:
        with use(display or current()) as shared, StatusWriter(output, "run") as status, heard_by(status.alive):
            write_text(output / PIPELINE, dump_yaml({"stages": {stage.name: stage.mapping() for stage in stages}}))
            prints: dict[str, str] = {}
            reports = []
            for number, stage in enumerate(stages, 1):
                status.update("running", number - 1, len(stages), stage=stage.name)
                shared.prefix = f"[{number}/{len(stages)}]"
                prints[stage.name] = fingerprint(stage.verb, stage.values, {need: prints[need] for need in stage.needs})
                reports.append(_run_stage(stage, output, prints[stage.name], do, shared))
            status.update(step=len(stages), stage="")
            shared.prefix = ""
            return reports
    finally:
        lock.release()


def _run_stage(
    stage: Stage, output: Path, now: str, do: Callable[[str, Any], Path | None], display: Display
) -> StageReport:
    folder = stage.folder(output)
    record = _read(folder)
    if record and record.done and record.fingerprint == now and (folder / record.result).exists():
        display.message(f"{stage.name}: unchanged, kept")
        return StageReport(name=stage.name, verb=stage.verb, outcome="kept", seconds=record.seconds, folder=folder)
    for need in stage.needs_model:
        if not (output / need / stage.exports.get(need, MODEL)).exists():
            raise UserError(f"stage {stage.name}: stage {need} exports no model; for its folder write ${{{need}.run}}")
    goes_on = record is not None and not record.done and record.fingerprint == now and "resume" in stage.values
    if not goes_on:
        _clear(folder, record)
    spent = record.seconds if record and goes_on else 0.0
    display.message(f"{display.prefix} {stage.name}: {stage.verb}{' continues' if goes_on else ''}")
    started = time.monotonic()
    _write(folder, Record(fingerprint=now, verb=stage.verb, done=False, seconds=spent))
    try:
        wrote = _uninterrupted(do, stage.verb, stage.config(output, goes_on))
    except (UserError, RunFailed, RunStopped) as problem:
        _write(folder, Record(fingerprint=now, verb=stage.verb, done=False, seconds=spent + time.monotonic() - started))
        more = "; the same command continues from here" if isinstance(problem, RunStopped) else ""
        raise type(problem)(f"stage {stage.name}: {problem}{more}") from problem
    seconds = spent + time.monotonic() - started
    _write(folder, Record(fingerprint=now, verb=stage.verb, done=True, seconds=seconds, result=_result(wrote, folder)))
    if late_request():
        raise RunStopped(f"stage {stage.name} is done; the same command continues from here")
    return StageReport(
        name=stage.name, verb=stage.verb, outcome="continued" if goes_on else "ran", seconds=seconds, folder=folder
    )


def _uninterrupted(do: Callable[[str, Any], Path | None], verb: str, config: Any) -> Path | None:
    try:
        return do(verb, config)
    except KeyboardInterrupt:  # from a verb that cannot be resumed
        raise RunStopped("interrupted") from None


def _read(folder: Path) -> Record | None:
    if not (folder / STAGE_RECORD).exists():
        return None
    try:
        record = Record(**(read_json(folder / STAGE_RECORD) or {}))
        return replace(record, seconds=float(record.seconds), result=str(record.result))
    except (TypeError, ValueError):
        # The file is damaged. A pipeline wrote the folder, but its contents are unknown.
        return Record(fingerprint="", verb="", done=False)


def _write(folder: Path, record: Record) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / STAGE_RECORD, json_line(asdict(record)))


def _clear(folder: Path, record: Record | None) -> None:
    """Empty a stage's folder. A folder that no pipeline wrote is refused.

    The answers of a judge stay: each belongs to a question by a hash, and most were paid for.
    """
    if not folder.exists():
        return
    if record is None and any(entry.name not in _OURS for entry in folder.iterdir()):
        raise UserError(f"{folder} holds something that no pipeline wrote; remove it or choose another --output")
    lock = FolderLock(folder)
    try:
        # The record is removed last, so that after a kill the folder still counts as one of a pipeline.
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name == STAGE_RECORD):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif entry.name not in (LOCK, ASKED):
                entry.unlink()
    finally:
        lock.release()


def _result(wrote: Path | None, folder: Path) -> str:
    for name in (MODEL, ADAPTER):
        if (folder / name).is_dir():
            return name
    result = wrote or folder
    inside = result.is_relative_to(folder)
    return str(result.relative_to(folder) if inside else result.resolve())


def summary(reports: Sequence[StageReport]) -> Table:
    """The table of stages at the end, with their times."""
    table = Table("stage", "verb", "", "time", "folder")
    for report in reports:
        time_taken = duration(report.seconds) if report.outcome != "kept" else ""
        table.add_row(report.name, report.verb, report.outcome, time_taken, Text(visible(str(report.folder))))
    total = sum(report.seconds for report in reports if report.outcome != "kept")
    table.add_section()
    table.add_row("total", "", "", duration(total), "")
    return table
