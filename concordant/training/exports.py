"""What a run exports at its end: the model with its adapter merged, the adapter alone in PEFT's layout, or both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from concordant.config.names import Export
from concordant.core.errors import UserError
from concordant.engines.protocol import Learner
from concordant.runs.folder import RunFolder
from concordant.runs.metrics import told
from concordant.runs.names import ADAPTER, MODEL
from concordant.runs.read import metrics_of

Write = Callable[[Path, Mapping[str, Any]], None]  # fills the empty folder; the mapping is added to the model card

# Of metrics.jsonl, what says nothing of the exported model.
_BOOKKEEPING = ("step", "tokens", "samples", "epoch", "learning_rate", "grad_norm", "tokens_per_second", "eval/samples")
_ABOUT_THE_RUN = ("doctor/", "seconds/", "update/", "eval/seconds/", "eval/doctor/")


def exports_of(learner: Learner, wanted: Export, card: Mapping[str, Any]) -> dict[str, Write]:
    """The folders that a run writes at its end, by name in the run folder. The last one is the main result.

    Raises:
        UserError: an adapter is wanted, but none is trained, or no other program could find its base.
    """
    if wanted in ("adapter", "both") and not learner.adapter_base:
        raise UserError(
            f"train.export={wanted}: there is no adapter over a base that can be found again. The base may be a "
            "built-in model, which is on no disk, or have another adapter merged into it; set train.export merged"
        )
    writes: dict[str, Write] = {}
    if wanted in ("adapter", "both") or (wanted == "auto" and learner.adapter_base):
        writes[ADAPTER] = lambda folder, results: learner.export_adapter(folder, {**card, **results})
    if wanted != "adapter":
        writes[MODEL] = lambda folder, results: learner.export(folder, {**card, **results})
    return writes


def publish(folder: RunFolder, exports: Mapping[str, Write], results: Mapping[str, Any]) -> Path:
    """Write every export, each whole or not at all. Exports of an earlier end of the run are removed.

    Returns the main result. OSError or SafetensorError if the disk is full.
    """
    for name, write in exports.items():
        main = folder.publish(name, lambda new, write=write: write(new, results))  # type: ignore[misc]
    folder.withdraw({MODEL, ADAPTER} - exports.keys())
    return main


def results_at(folder: Path, step: int, total: int) -> dict[str, Any]:
    """The section of the model card with the numbers of ``step``, as metrics.jsonl has them.

    Held-out metrics are shown alone where there are any.
    """
    row = next((row for row in reversed(metrics_of(folder).rows) if row["step"] == step), {})
    numbers = {
        name: told(name, row)
        for name, value in row.items()
        if isinstance(value, int | float) and name not in _BOOKKEEPING and not name.startswith(_ABOUT_THE_RUN)
    }
    heldout = {name: value for name, value in numbers.items() if name.startswith("eval/")}
    return {"results": {"exported step": f"{step:,} of {total:,}", **(heldout or numbers)}}
