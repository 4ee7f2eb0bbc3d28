"""Runs the laws and writes docs/science: ``python -m science [--only NAME …] [--seeds 5] [--folder runs/science]``.

Every finished seed of a law is kept in --folder, so that the command can be stopped and repeated; its models too. The
numbers of all seeds, from which the page and its pictures are made, stand in docs/science/seeds. --go-on takes these
numbers for seeds that are not in --folder: more seeds can be added on another machine.
"""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml
from matplotlib.figure import Figure

from science import world
from science.decide import Decision
from science.measured import measure

ROOT = Path(__file__).resolve().parents[1]
CLAIMS: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "claims.yaml").read_text(encoding="utf-8"))
COUNTED = """Where a run was stopped and continued, only its last part
is counted. Models that two laws share count for the law that ran first. Other programs used the machine meanwhile."""
NO_FIGURE = ("one_hash",)
HEAD = """# The laws of RLHF, tested

A small world with a known truth can test what papers say about reward models, best-of-n, DPO and reinforcement
learning. `make science` runs the tests of this page with one process on each of two processor cores. What each law
says, and the threshold that decides, were written down in `science/claims.yaml` before the first run. The world is
[toytalk](../toytalk.md): a policy of 1.5 million parameters, reward models of 0.05 to 0.4 million, and a gold judge
that knows the true quality of every answer. *Gold* is the mean of this quality, from 0 to 1. Intervals are 95 % over
seeds (Student's t). For a test of every value, the worst value is shown with the range of all values. "Undecided" means
that the interval holds the threshold.
"""


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
    parts, spent = [HEAD], sum(law["processor_minutes"] for law in decisions.values())
    parts.append(f"\nThe laws below took {spent:.0f} minutes of processor time together. {COUNTED}\n")
    for name, claim in CLAIMS.items():
        if name not in decisions:
            continue
        law = decisions[name]
        cost = f"{law['seeds']} seeds, {law['processor_minutes']:.1f} minutes of processor time"
        parts.append(f"\n## {claim['title']}\n\n{claim['papers']}. {cost}. `science/{name}.py`\n")
        if name not in NO_FIGURE:
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


def taken(names: Sequence[str], seeds: Path, folder: Path) -> None:
    """Put the numbers of the page's seeds where ``measure`` keeps those of finished seeds."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        known = seeds / f"{name}.json"
        for seed, found in enumerate(json.loads(known.read_text(encoding="utf-8")) if known.is_file() else ()):
            file = folder / f"{name}-{seed}.json"
            if not file.is_file():
                file.write_text(json.dumps(found), encoding="utf-8")


NOTES: dict[str, str] = yaml.safe_load((Path(__file__).parent / "notes.yaml").read_text(encoding="utf-8")) or {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(CLAIMS), default=list(CLAIMS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2, help="processes of one thread; each runs the laws of one seed")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "science", help="of models and finished seeds")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "science")
    parser.add_argument("--go-on", action="store_true", help="do not run the seeds that stand in --output again")
    given = parser.parse_args()
    seeds = given.output / "seeds"
    seeds.mkdir(parents=True, exist_ok=True)
    if given.go_on:
        taken(given.only, seeds, given.folder)
    world.prepared(given.folder)  # before the processes of the seeds, which share this data
    with ProcessPoolExecutor(given.jobs, get_context("spawn")) as pool:
        list(pool.map(partial(measure, given.only, folder=given.folder), range(given.seeds)))
    numbers = given.output / "decisions.json"
    decisions = json.loads(numbers.read_text(encoding="utf-8")) if numbers.is_file() else {}
    for name in given.only:
        law = importlib.import_module(f"science.{name}")
        files = [given.folder / f"{name}-{seed}.json" for seed in range(given.seeds)]
        found = [json.loads(file.read_text(encoding="utf-8")) for file in files]
        (seeds / f"{name}.json").write_text(json.dumps(found) + "\n", encoding="utf-8")
        results, seconds = [one["result"] for one in found], sum(one["processor_seconds"] for one in found)
        tests = {test: asdict(decision) for test, decision in law.decisions(results).items()}
        decisions[name] = {"seeds": given.seeds, "processor_minutes": round(seconds / 60, 1), "tests": tests}
        if name not in NO_FIGURE:
            drawn(law, results, given.output / f"{name}.png")
        for test, decision in tests.items():
            print(f"{name}: {test}: {decision['value']:.4g}: {decision['verdict']}")
    numbers.write_text(json.dumps(decisions, indent=1) + "\n", encoding="utf-8")
    (given.output / "index.md").write_text(page(decisions), encoding="utf-8")


if __name__ == "__main__":
    main()
