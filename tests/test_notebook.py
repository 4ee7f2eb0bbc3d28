"""examples/first_steps.ipynb runs from top to bottom, and is stored without outputs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).resolve().parents[1] / "examples" / "first_steps.ipynb"
CELLS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
SMALLER = {"SFT_STEPS": 6, "DPO_STEPS": 3, "PROMPTS": 8}  # in place of the notebook's own, which take a minute


def source(cell: dict) -> str:
    return "".join(cell["source"])


def test_it_is_stored_without_outputs():
    code = [cell for cell in CELLS if cell["cell_type"] == "code"]
    assert len(code) >= 8
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert len({cell["id"] for cell in CELLS}) == len(CELLS)


def test_its_links_lead_somewhere():
    text = "\n".join(source(cell) for cell in CELLS if cell["cell_type"] == "markdown")
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) >= 4
    assert all((NOTEBOOK.parent / link).exists() for link in links)


def test_it_runs_from_top_to_bottom(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys):
    """The cells in order in one namespace, as a notebook program runs them, with fewer steps."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    namespace: dict[str, object] = {}
    for cell in CELLS:
        if cell["cell_type"] == "code":
            exec(compile(source(cell), f"{NOTEBOOK.name} {cell['id']}", "exec"), namespace)
            namespace |= {name: value for name, value in SMALLER.items() if name in namespace}
    shown = capsys.readouterr().out
    assert re.search(r"sft: gold 0\.\d\d, KL 0\.0 nats\ndpo: gold 0\.\d\d, KL -?\d", shown)
    assert Path(shown.splitlines()[-1]).is_file()
