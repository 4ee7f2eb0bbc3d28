"""``concordant doctor``: find what is wrong with a run, data, a model or this machine, and say how to cure it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from concordant.config.checks import checked
from concordant.config.model import ModelConfig
from concordant.config.stages import DiagnoseConfig
from concordant.core.errors import RunFailed, UserError
from concordant.core.near_path import nearest_path, what_it_is
from concordant.core.visible import say, visible
from concordant.data.files import is_data_file
from concordant.doctor.catalogue import explain
from concordant.doctor.finding import Diagnosis
from concordant.doctor.render import facts_text, findings_text, likeliest_first, unseen_text, verdict
from concordant.training.progress import Display


@checked
def diagnose(config: DiagnoseConfig) -> None:
    """Print the diagnosis of ``config.target``, or the page of a rule. Raises RunFailed if there is an error."""
    if config.explain:
        say(explain(config.explain))
        return
    diagnosis = examine(config.target, config.model)
    if config.json:
        print(json.dumps({"target": config.target, **_as_json(diagnosis)}, indent=2))
    else:
        display = Display(Console())
        for text in _as_text(diagnosis):
            display.message(text)
    every = diagnosis.all_findings
    if any(finding.severity == "error" for finding in every):
        raise RunFailed(f"doctor {config.target}: {verdict(every)}".replace("  ", " "))


def _as_text(diagnosis: Diagnosis) -> Iterator[str | Text]:
    yield facts_text(diagnosis.facts)
    yield from findings_text(diagnosis.findings)
    for name, stage in diagnosis.stages.items():
        yield Text.assemble(("\n" + name, "bold"))
        yield from _as_text(stage)
    if diagnosis.stages:
        yield f"\nall stages: {verdict(diagnosis.all_findings, diagnosis.all_unseen)}"
    else:
        if diagnosis.unseen:
            yield unseen_text(diagnosis.unseen)
        yield verdict(diagnosis.findings, diagnosis.unseen)


def _as_json(diagnosis: Diagnosis) -> dict[str, Any]:
    found: dict[str, Any] = {
        "facts": dict(diagnosis.facts),
        "findings": [finding.as_event() for finding in likeliest_first(diagnosis.findings)],
    }
    if diagnosis.unseen:
        found["unseen"] = dict(diagnosis.unseen)
    if diagnosis.stages:
        found["stages"] = {name: _as_json(stage) for name, stage in diagnosis.stages.items()}
    return found


def examine(target: str, model: ModelConfig | None = None) -> Diagnosis:
    """The diagnosis of ``target``: a run, a pipeline's folder, a log of another trainer, data, a model or, if empty,
    this machine.

    Data are read with the tokenizer of ``model``, if one is named.
    """
    # These modules load torch, which a page of the doctor's does not need.
    from concordant.data.folders import is_prepared
    from concordant.doctor.files import diagnose_data, diagnose_model
    from concordant.doctor.machine import diagnose_machine
    from concordant.doctor.run_folders import (
        diagnose_pipeline,
        diagnose_result,
        diagnose_run,
        folder_of,
        is_pipeline,
        is_result,
        is_run,
        of_other_trainer,
    )
    from concordant.models.locate import is_adapter

    model = model or ModelConfig()
    if not target:
        return diagnose_machine()
    if target.startswith("package:"):
        _refuse_tokenizer(target, model)
        return diagnose_model(target)
    path = folder_of(Path(os.path.expanduser(target)))
    if log := of_other_trainer(path):
        return log
    if target.startswith("builtin:") or path.is_file() or (path.is_dir() and is_prepared(path)):
        return diagnose_data(target, model)
    if not path.is_dir():
        if os.path.lexists(path):
            raise UserError(f"{target}: {what_it_is(path)}; expected a file or a folder")
        raise UserError(
            f'no such file or folder: "{target}".{nearest_path(path)} '
            "Expected a run folder, a data file or folder, a model folder, a log of another trainer, or nothing for "
            "this machine"
        )
    is_model = (path / "config.json").is_file() or is_adapter(path)
    if not (is_pipeline(path) or is_run(path) or is_result(path) or is_model):
        inside = sorted(path.iterdir())
        runs = [visible(str(child)) for child in inside if is_run(child)]
        if runs and not any(is_data_file(child) for child in inside):
            raise UserError(f"{visible(target)} is a folder of runs; give one of them: {', '.join(runs)}")
        return diagnose_data(str(path), model)
    _refuse_tokenizer(target, model)
    if is_pipeline(path):
        return diagnose_pipeline(path)
    if is_run(path):
        return diagnose_run(path)
    return diagnose_result(path) if is_result(path) else diagnose_model(str(path))


def _refuse_tokenizer(target: str, model: ModelConfig) -> None:
    """Raise UserError where a model is named and ``target`` is no data that its tokenizer could look at."""
    if model.name:
        raise UserError(
            f"--model.name {model.name} would do nothing: its tokenizer looks at data, and {target} is none"
        )
