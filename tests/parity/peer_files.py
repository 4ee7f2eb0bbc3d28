"""The files a peer's process writes and the comparison reads: figures.json (what a golden is) and whole gradients."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.parity.figures import Figures, as_golden, load_gradients, save_gradients

FIGURES, GRADIENTS = "figures.json", "gradients.safetensors"


def write(folder: Path, figures: Mapping[str, Figures], packages: Sequence[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    versions = {name: version(name) for name in packages}
    lines = [f"{json.dumps(name)}: {json.dumps(row)}" for name, row in as_golden(figures).items()]
    text = f'{{"versions": {json.dumps(versions)},\n"figures": {{\n' + ",\n".join(lines) + "\n}}\n"
    (folder / FIGURES).write_text(text, encoding="utf-8")
    save_gradients(figures, folder / GRADIENTS)


def read_golden(path: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """(versions, rows) of a figures.json."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return content["versions"], content["figures"]


def figures_of(rows: Mapping[str, Any]) -> dict[str, Figures]:
    """A golden's rows; gradients stay sketches and are left out."""
    return {
        name: Figures(row.get("loss", math.nan), row.get("metrics", {}), {}, row.get("tokens", {}))
        for name, row in rows.items()
    }


def read(folder: Path) -> tuple[dict[str, str], dict[str, Figures]]:
    """(versions, figures with whole gradients) of a peer's folder."""
    versions, rows = read_golden(folder / FIGURES)
    figures, gradients = figures_of(rows), load_gradients(folder / GRADIENTS)
    for name, gradient in gradients.items():
        figures[name].gradient = gradient
    return versions, figures
