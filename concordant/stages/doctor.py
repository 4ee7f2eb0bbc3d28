"""``concordant doctor``: find what is wrong with a run, data, a model or this machine, and say how to cure it."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console
from rich.text import Text

from concordant.config.checks import checked
from concordant.config.model import ModelConfig
from concordant.config.stages import DiagnoseConfig
from concordant.core.errors import RunFailed, UserError, nearest
from concordant.data.folders import is_prepared
from concordant.doctor.files import diagnose_data, diagnose_model, diagnose_run, is_run
from concordant.doctor.finding import Diagnosis
from concordant.doctor.machine import diagnose_machine
from concordant.doctor.render import by_gravity, facts_text, finding_text, verdict
from concordant.models.locate import is_adapter
from concordant.training.progress import Display


@checked
def diagnose(config: DiagnoseConfig) -> None:
    """Print the diagnosis of ``config.target``. Raises RunFailed if the diagnosis has an error."""
    diagnosis = examine(config.target, config.model)
    findings = by_gravity(diagnosis.findings)
    if config.json:
        events = [finding.as_event() for finding in findings]
        print(json.dumps({"target": config.target, "facts": dict(diagnosis.facts), "findings": events}, indent=2))
    else:
        display = Display(Console())
        shown: list[str | Text] = [facts_text(diagnosis.facts), *map(finding_text, findings), verdict(findings)]
        for text in shown:
            display.message(text)
    if any(finding.severity == "error" for finding in findings):
        raise RunFailed(f"doctor {config.target}: {verdict(findings)}".replace("  ", " "))


def examine(target: str, model: ModelConfig | None = None) -> Diagnosis:
    """The diagnosis of ``target``, which may be a run, data, a model or, if empty, this machine.

    Data are read with the tokenizer of ``model``, if one is named.
    """
    model = model or ModelConfig()
    if not target:
        return diagnose_machine()
    if target.startswith("package:"):
        return diagnose_model(target)
    path = Path(target).expanduser()
    if target.startswith("builtin:") or path.is_file() or (path.is_dir() and is_prepared(path)):
        return diagnose_data(target, model)
    if not path.is_dir():
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UserError(
            f'no such file or folder: "{target}".{nearest(path.name, siblings)} '
            "Expected a run folder, a data file or folder, a model folder, or nothing for this machine"
        )
    if is_run(path):
        return diagnose_run(path)
    if (path / "config.json").is_file() or is_adapter(path):
        return diagnose_model(str(path))
    return diagnose_data(str(path), model)
