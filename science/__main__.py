"""Runs the laws and writes docs/science: ``python -m science [--only NAME …] [--seeds 5] [--folder runs/science]``.

Every finished seed of a law is kept in --folder, so that the command can be stopped and repeated; its models too.
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import yaml
from matplotlib.figure import Figure

from science.decide import Decision

ROOT = Path(__file__).resolve().parents[1]
CLAIMS: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "claims.yaml").read_text(encoding="utf-8"))
HEAD = """# The laws of RLHF, tested

A small world with a known truth can test what papers say about reward models, best-of-n and DPO. `make science` runs
the tests of this page on two processor cores. What each law says, and the threshold that decides, were written down in
`science/claims.yaml` before the first run. The world is [toytalk](../toytalk.md): a policy of 1.5 million parameters,
reward models of 0.05 to 0.4 million, and a gold judge that knows the true quality of every answer. *Gold* is the mean
of this quality, from 0 to 1. Intervals are 95 % over seeds (Student's t). For a test of every value, the worst value is
shown with the range of all values. "Undecided" means that the interval holds the threshold.
"""


def measured(name: str, law: ModuleType, seeds: int, folder: Path) -> list[dict[str, Any]]:
    """The results of all seeds; those that are there already are read."""
    found = []
    for seed in range(seeds):
        file = folder / f"{name}-{seed}.json"
        if not file.is_file():
            began = time.process_time(), time.monotonic()
            result = law.measure(seed, folder)
            spent = {"processor": time.process_time() - began[0], "clock": time.monotonic() - began[1]}
            file.write_text(json.dumps({"result": result, "seconds": spent}), encoding="utf-8")
            print(f"{name} seed {seed}: {spent['clock']:.0f} s", flush=True)
        found.append(json.loads(file.read_text(encoding="utf-8"))["result"])
    return found


def drawn(law: ModuleType, results: list[dict[str, Any]], file: Path) -> None:
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    axes = figure.subplots(1, 2)
    law.draw(results, axes)
    for axis in axes:
        if axis.get_legend_handles_labels()[0]:
            axis.legend(frameon=False, fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=110)


def page(decisions: dict[str, dict[str, Any]]) -> str:
    """The whole page, from the decisions of all laws that have been run."""
    parts = [HEAD]
    for name, claim in CLAIMS.items():
        if name not in decisions:
            continue
        law = decisions[name]
        parts.append(f"\n## {claim['title']}\n\n{claim['papers']}. {law['seeds']} seeds. `science/{name}.py`\n")
        if name != "one_hash":
            parts.append(f"\n![{claim['title']}]({name}.png)\n")
        parts.append("\n| claim and test | measured | verdict |\n|---|---|---|\n")
        for test, words in claim["tests"].items():
            found = Decision(**law["tests"][test])
            numbers = f"{found.value:.3g} ({found.low:.3g} to {found.high:.3g})"
            parts.append(f"| {words} | {numbers} | **{found.verdict}** |\n")
        if name in NOTES:
            parts.append(f"\n{NOTES[name].strip()}\n")
    if left := [claim["title"] for name, claim in CLAIMS.items() if name not in decisions]:
        words = "The claims of these laws are written down, and no run has decided them"
        parts.append(f"\n## Not run yet\n\n{words}: {'; '.join(left)}.\n")
    return "".join(parts)


NOTES: dict[str, str] = yaml.safe_load((Path(__file__).parent / "notes.yaml").read_text(encoding="utf-8")) or {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(CLAIMS), default=list(CLAIMS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "science", help="of models and finished seeds")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "science")
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.folder.mkdir(parents=True, exist_ok=True)
    given.output.mkdir(parents=True, exist_ok=True)
    numbers = given.output / "decisions.json"
    decisions = json.loads(numbers.read_text(encoding="utf-8")) if numbers.is_file() else {}
    for name in given.only:
        law = importlib.import_module(f"science.{name}")
        results = measured(name, law, given.seeds, given.folder)
        tests = {test: asdict(decision) for test, decision in law.decisions(results).items()}
        decisions[name] = {"seeds": given.seeds, "tests": tests}
        drawn(law, results, given.output / f"{name}.png")
        for test, decision in tests.items():
            print(f"{name}: {test}: {decision['value']:.4g}: {decision['verdict']}")
        numbers.write_text(json.dumps(decisions, indent=1) + "\n", encoding="utf-8")
        (given.output / "index.md").write_text(page(decisions), encoding="utf-8")


if __name__ == "__main__":
    main()
