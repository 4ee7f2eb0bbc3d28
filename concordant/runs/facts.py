"""Reads what a finished run was: its model, data, settings, date and exported step. Nothing of it needs torch."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from concordant.config.yaml_io import load_yaml
from concordant.core.errors import UserError
from concordant.runs.logs import read_json, read_log
from concordant.runs.names import (
    CONFIG,
    EVENTS,
    METRICS,
    MODEL,
    RESULT,
    REWARD_SUMMARY,
    SAMPLES,
    STATUS,
)

FILES = (CONFIG, METRICS, SAMPLES, EVENTS, RESULT, REWARD_SUMMARY)  # those that a report links to, if they exist
RETAINED, RETAINED_BEFORE = "retain/nll", "retain/start"  # the metrics of --retain.text
_LONGEST_HEADER = 2**27  # bytes; the header of a safetensors file lists its tensors


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What is known of a run. Empty parts are not known, for example because an earlier version wrote the folder."""

    folder: Path
    settings: Mapping[str, Any] = field(default_factory=dict)  # config.yaml by dotted key
    result: Mapping[str, Any] = field(default_factory=dict)  # result.json
    started: str = ""  # ISO 8601, UTC: when the process that ended the run opened the folder
    weights: int | None = None  # numbers in the exported model
    files: tuple[Path, ...] = ()  # files and folders of the run that exist
    # Negative log-prob of the windows of retain.text that are not learnt, nats a token: before the run, and at the
    # exported step. None without such a text.
    retained: tuple[float, float] | None = None

    @property
    def base(self) -> str:
        """The model from which the run started, as its config names it."""
        return str(self.settings.get("model.name", ""))


def is_run(folder: Path) -> bool:
    return (folder / CONFIG).is_file()


def read_facts(folder: Path) -> RunFacts:
    """The facts of a run folder. A missing or damaged file raises no error; its facts are then not known."""
    try:
        config = load_yaml(folder / CONFIG)
    except UserError:
        config = {}
    status, result = read_json(folder / STATUS) or {}, read_json(folder / RESULT) or {}
    settings = dict(flat(config))
    files = [folder / name for name in FILES if (folder / name).is_file()]
    return RunFacts(
        folder=folder,
        settings=settings,
        result=result,
        started=str(status.get("started", "")),
        weights=weights_of(folder / MODEL),
        files=(*files, *([folder / MODEL] if (folder / MODEL).is_dir() else [])),
        retained=_retained(folder, result.get("exported_step")) if settings.get("retain.text") else None,
    )


def _retained(folder: Path, exported: object) -> tuple[float, float] | None:
    """The number before the run, and that of the step ``exported``, or of the last evaluation."""
    rows = [row for row in read_log(folder / METRICS, "step").rows if _is_number(row.get(f"eval/{RETAINED}"))]
    starts = [row[f"eval/{RETAINED_BEFORE}"] for row in rows if _is_number(row.get(f"eval/{RETAINED_BEFORE}"))]
    if not starts:
        return None
    at_exported = [row[f"eval/{RETAINED}"] for row in rows if row["step"] == exported]
    return starts[0], (at_exported or [rows[-1][f"eval/{RETAINED}"]])[-1]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def weights_of(model: Path) -> int | None:
    """The number of weights in a model folder, from the headers of its safetensors files; None if it is not known."""
    sizes = [_numbers_in(path) for path in sorted(model.glob("*.safetensors"))]
    known = [size for size in sizes if size is not None]
    return sum(known) if known and len(known) == len(sizes) else None


def _numbers_in(path: Path) -> int | None:
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(length, _LONGEST_HEADER)))
        return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
    except (OSError, ValueError, struct.error, AttributeError, KeyError, TypeError, RecursionError):
        return None  # the file is damaged or is no safetensors file


def flat(mapping: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """The values of nested mappings with their dotted keys. The mappings of a damaged file may have any keys."""
    found: list[tuple[str, Any]] = []
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            found += flat(value, f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", value))
    return found
