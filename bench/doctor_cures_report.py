"""Counts the patients of bench/doctor_cures.py, and writes bench/results/doctor_cures.json and the docs' section."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bench.doctor import wilson
from bench.doctor_cures_text import DEEDS

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results" / "doctor_cures.json"
PAGE = ROOT / "docs" / "doctor-measured.md"
HEADING = "## Cured patients"
CURED = ("better", "equal", "worse", "failed")  # outcomes of a cure that a user can carry out
CODE = (
    "mask where text is encoded", "mask by position", "close the turn", "draw the order anew", "optimize all weights",
    "freeze the start", "one temperature", "load weights", "no dropout", "cut at the end token",
    "loss from the weights", "finite loss",
)  # fmt: skip
assert set(CODE) <= set(DEEDS)
Record = dict[str, Any]


def treated(patients: Iterable[Record]) -> list[Record]:
    """The patients whose first finding has a cure that a user can carry out."""
    return [p for p in patients if p["outcome"] in CURED]


def share(patients: Sequence[Record]) -> dict[str, Any]:
    """How many of the patients became better, with 95 % bounds."""
    hits = sum(p["outcome"] == "better" for p in patients)
    low, high = wilson(hits, len(patients))
    return {"count": hits, "of": len(patients), "share": hits / max(1, len(patients)), "low": low, "high": high}


def summary(patients: Sequence[Record]) -> dict[str, dict[str, Any]]:
    cured = treated(patients)
    by_hand = [p for p in cured if set(p["done"]) & set(CODE)]
    kin, strange = ([p for p in cured if p["set"] == name] for name in ("kin", "strange"))
    return {
        "better than before": share(cured),
        "kin runs": share(kin),
        "strange runs": share(strange),
        "cures by a setting, a file of data, a reward or a start": share([p for p in cured if p not in by_hand]),
        "cures that say which part of the code is wrong": share(by_hand),
        "kin runs that can become better at all": share([p for p in kin if p.get("curable") is not False]),
    }


def by_finding(patients: Sequence[Record]) -> list[tuple[str, Counter[str]]]:
    """The outcomes of each first finding, the finding with the most runs first."""
    table: dict[str, Counter[str]] = {}
    for p in patients:
        if p["rule"]:
            table.setdefault(p["rule"], Counter())[p["outcome"]] += 1
    return sorted(table.items(), key=lambda item: (-item[1].total(), item[0]))


def section(patients: Sequence[Record]) -> str:
    """The section of docs/doctor-measured.md."""
    silent = sum(p["outcome"] == "nothing said" for p in patients)
    none = [p for p in patients if p["outcome"] == "none offered"]
    absent = [p["name"] for p in patients if p["outcome"] == "not made"]
    lines = [HEADING, "", PREFACE.format(all=len(patients) - len(absent), silent=silent, none=len(none))]
    if absent:
        lines += [f"{len(absent)} more runs were not made with these cures: {', '.join(absent)}.", ""]
    lines += ["| measure | runs | share | 95 % bounds |", "|---|---|---|---|"]
    for name, s in summary(patients).items():
        lines.append(f"| {name} | {s['count']} of {s['of']} | {s['share']:.1%} | {s['low']:.1%} to {s['high']:.1%} |")
    lines += ["", "| first finding | runs | better | equal | worse | refused or failed | no cure offered |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for rule, n in by_finding(patients):
        cells = [str(n[outcome] or "") for outcome in (*CURED, "none offered")]
        lines.append(f"| {rule} | {n.total()} | {' | '.join(cells)} |")
    lines += ["", "Runs that did not become better:", ""]
    lines += ["| run, fault | cure | what was done | before | after | without the fault | outcome |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for p in treated(patients):
        if p["outcome"] != "better":
            done = ", ".join(p["done"]) or "nothing: all is so already"
            numbers = " | ".join("" if p[k] is None else f"{p[k]:.3f}" for k in ("sick", "cured", "without_fault"))
            cure = p["cure"].replace("|", "\\|")
            lines.append(f"| {p['name']}, {p['fault']} | {p['rule']}: {cure} | {done} | {numbers} | {p['outcome']} |")
    return "\n".join(lines) + "\n"


PREFACE = """\
Written by `python -m bench.doctor_cures`. A doctor is judged by cured patients. {all} sick runs of two sets were looked
at. Each was made again after the cure of its first finding had been followed: the setting that the cure names, what it
says to do with the file, the reward or the start, or the part of the user's code that it says is wrong. In the last
case the planted fault is taken out, if that part is the one that was planted. Where a cure asks for new labels, the
gold judge gives them, as careful people would. The cured run has the same start and the same seed. {silent} runs got no
finding, and the cure of {none} findings only says what to look at; neither are counted.

The measure is one that no rule uses: the gold score of answers to 380 held-out prompts (DPO, PPO), the share of 1,492
held-out pairs that are ranked as the gold judge ranks them (reward models), and minus the nats of a good held-out
answer (SFT). A run is better or worse if the difference exceeds two standard errors over the prompts. A kin run that is
not better was also made without its fault, which shows whether any cure could have made it measurably better.
"""


def write(patients: Sequence[Record]) -> None:
    """Write the numbers, and put the section into the page in place of the one that is there."""
    numbers = summary(patients)
    out = {"summary": numbers, "patients": list(patients)}
    RESULTS.write_text(json.dumps(out, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(with_section(PAGE.read_text(encoding="utf-8"), section(patients)), encoding="utf-8")
    for name, s in numbers.items():
        print(f"{name}: {s['count']} of {s['of']} = {s['share']:.1%} ({s['low']:.1%} to {s['high']:.1%})")
    for rule, n in by_finding(patients):
        print(f"{rule}: {', '.join(f'{count} {outcome}' for outcome, count in n.most_common())}")


def with_section(page: str, new: str) -> str:
    """``page`` with the section ``new``, which stands in place of an older one or at the end."""
    before, found, rest = page.partition(f"{HEADING}\n")
    after = rest.partition("\n## ")[1:] if found else ("", "")
    tail = "".join(after).lstrip("\n")
    return before.rstrip("\n") + "\n\n" + new + (f"\n{tail}" if tail else "")
