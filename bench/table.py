"""A processor's README.md in bench/results from the JSON files beside it."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.comparisons import COMPARISONS, MODELS, Comparison
from bench.drive import busy_note
from bench.ratios import agree, ratio

TOLERANCE = 1e-3  # of the loss, first steps; what is sampled differs by more
SAMPLED_TOLERANCE = 0.02
FIRST_STEPS = 3
FASTEST, DEFAULTS = "TRL, fastest", "TRL, defaults"


def write_table(folder: Path, comparisons: Sequence[Comparison] = COMPARISONS) -> None:
    records = {c.name: _read(folder / f"{c.name}.json") for c in comparisons}
    lines = ["# Results", "", *_machine(records), "", *_table(comparisons, records)]
    parts = {"generation": "Generation", "growth": "Growth", "prepare": "Prepare", "vllm": "Sampling beside vLLM"}
    for extra, title in parts.items():
        part = folder / f"{extra}.md"
        if part.is_file():
            lines += ["", f"## {title}", "", part.read_text(encoding="utf-8").rstrip()]
    (folder / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _machine(records: dict[str, dict[str, Any] | None]) -> list[str]:
    run = [r for r in records.values() if r and "machine" in r]
    if not run:
        return []
    machine, facts = run[0]["machine"], [f for r in run for f in r["facts"].values()]
    versions = {f"{k} {f[k]}" for f in facts for k in ("torch", "transformers", "trl") if k in f}
    names = ", ".join(sorted(versions))
    return [f"{machine['cpu']}, {run[0]['threads']} threads. Python {machine['python']}, {names}."]


def _table(comparisons: Sequence[Comparison], records: dict[str, dict[str, Any] | None]) -> list[str]:
    lines = [
        "| work | model | | ours, s | TRL fastest, s | ratio | aim | to defaults | memory | aim | loss |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    notes = []
    for c in comparisons:
        record = records[c.name]
        if record is None:
            continue
        head = f"| {c.title} | {MODELS[c.model]} | {c.precision} |"
        aim = f"{c.aim:g}×" if c.aim else ""
        if "skipped" in record:
            lines.append(f"{head} not run: {record['skipped']} | | | {aim} | | | | |")
            continue
        lines.append(head + _measured(c, record, aim))
        notes += [f"- {c.title}, {MODELS[c.model]}, {c.precision}: {note}" for note in _notes(c, record)]
    return [*lines, "", *notes]


def _measured(c: Comparison, record: dict[str, Any], aim: str) -> str:
    """The cells of a row behind its name; a side that did not run has none."""
    ours = seconds(record, "ours")
    peers = [seconds(record, side) for side in (FASTEST, DEFAULTS)]
    peak = {side: turns[-1]["peak_mib"] for side, turns in record["turns"].items()}
    memory = f"{peak.pop('ours'):,.0f} MiB"
    if peak:
        memory += f", {record['turns']['ours'][-1]['peak_mib'] / min(peak.values()):.2f}×"
    memory_aim = f"≤ {c.memory_aim:g}×" if c.memory_aim else ""
    times = [f"{statistics.median(side):.2f}" if side else "" for side in (ours, peers[0])]
    ratios = [str(ratio(side, ours)) if side else "" for side in peers]
    losses = _losses(c, record) if peers[0] else ""
    return " " + " | ".join([*times, ratios[0], aim, ratios[1], memory, memory_aim, losses]) + " |"


def seconds(record: dict[str, Any], side: str) -> list[float]:
    """Of each turn after the warm-up; none for a side that did not run."""
    return [turn["seconds"] for turn in record["turns"].get(side, [])[1:]]


def _losses(c: Comparison, record: dict[str, Any]) -> str:
    """The first steps' of ours and of the peer, and whether they agree; of PPO the entropy, for answers are sampled."""
    name, tolerance = ("entropy", SAMPLED_TOLERANCE) if c.work == "ppo" else ("loss", TOLERANCE)
    ours, theirs = ([t[name] for t in record["turns"][side][:FIRST_STEPS]] for side in ("ours", FASTEST))
    verdict = "" if agree(ours, theirs, tolerance) else "**apart** "
    pairs = ", ".join(f"{a:.4f}/{b:.4f}" for a, b in zip(ours, theirs, strict=True))
    return f"{verdict}{name + ' ' if c.work == 'ppo' else ''}{pairs}"


def _notes(c: Comparison, record: dict[str, Any]) -> list[str]:
    facts, turns = record["facts"], record["turns"]
    notes = []
    if "reference_seconds" in facts["ours"] and FASTEST in facts:
        notes.append(_reference_note(record))
    if "flops" in turns["ours"][0] and (c.efficiency_aim or c.precision == "bf16"):
        notes.append(_efficiency_note(c, turns["ours"][1:]))
    if c.work == "ppo":
        notes.append(_ppo_note(turns))
    short = len(turns["ours"]) - 1
    if short < c.runs:
        notes.append(f"{short} run{'s' if short > 1 else ''} after the warm-up, not {c.runs}")
    asked = record["comparison"]["batch"]
    if asked != c.batch:
        notes.append(f"a batch of {asked}, not {c.batch}")
    return [*notes, *filter(None, [busy_note(record["machine"]["other_cores"])])]


def _reference_note(record: dict[str, Any]) -> str:
    """What the reference's log-probs cost, and the ratios when each step is charged for its pairs'."""
    once, theirs = (record["facts"][side]["reference_seconds"] for side in ("ours", FASTEST))
    ours = [s + once for s in seconds(record, "ours")]
    note = f"the reference's log-probs, once: {once:.2f} s a batch, TRL {theirs:.2f} s. With one epoch's share of them "
    note += f"a step is {ratio([s + theirs for s in seconds(record, FASTEST)], ours)} faster than TRL's fastest"
    defaults = seconds(record, DEFAULTS)
    return note + (f" and {ratio(defaults, ours)} faster than its defaults" if defaults else "")


def _efficiency_note(c: Comparison, turns: Sequence[dict[str, Any]]) -> str:
    shares = [100 * t["flops"] / t["seconds"] / t["gemm_flops"] for t in turns]
    rates = [t["gemm_flops"] / 1e9 for t in turns]
    tokens = statistics.median(t["tokens"] / t["seconds"] for t in turns)
    aim = f"; aim {100 * c.efficiency_aim:.0f} %" if c.efficiency_aim else ""
    return (
        f"{statistics.median(shares):.0f} % ({min(shares):.0f}–{max(shares):.0f}) of the machine's own GEMM rate, "
        f"{min(rates):,.0f}–{max(rates):,.0f} GFLOP/s in the same run{aim}; {tokens:,.0f} tree tokens/s"
    )


def _ppo_note(turns: dict[str, list[dict[str, Any]]]) -> str:
    phases = turns["ours"][-1]["phases"]
    parts = ", ".join(f"{name.removeprefix('seconds/')} {spent:.1f} s" for name, spent in phases.items())
    sides = [side for side in ("ours", FASTEST) if side in turns]
    value = "/".join(f"{turns[side][0]['value_loss']:.4f}" for side in sides)
    score = "/".join(f"{turns[side][0]['score']:.3f}" for side in sides)
    return f"ours spends {parts}; first step's value loss {value}, mean score {score}"
