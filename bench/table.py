"""bench/results/README.md from the JSON files beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.comparisons import COMPARISONS, MODELS, Comparison
from bench.ratios import agree, ratio

TOLERANCE = 1e-3  # of the loss, first steps; what is sampled differs by more
SAMPLED_TOLERANCE = 0.02
FIRST_STEPS = 3
BUSY = 0.5  # load of other processes above which a measurement is marked


def write_table(folder: Path) -> None:
    records = {c.name: _read(folder / f"{c.name}.json") for c in COMPARISONS}
    lines = ["# Results", "", *_machine(records), "", *_comparisons(records)]
    for extra in ("generation", "growth", "prepare"):
        part = folder / f"{extra}.md"
        if part.is_file():
            lines += ["", f"## {extra.capitalize()}", "", part.read_text(encoding="utf-8").rstrip()]
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


def _comparisons(records: dict[str, dict[str, Any] | None]) -> list[str]:
    lines = [
        "| work | model | | ours, s | TRL fastest, s | ratio | aim | to defaults | memory | aim | loss |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    notes = []
    for c in COMPARISONS:
        record = records[c.name]
        if record is None:
            continue
        head = f"| {c.title} | {MODELS[c.model]} | {c.precision} |"
        if "skipped" in record:
            lines.append(f"{head} not run: {record['skipped']} | | | {c.aim:g}× | | | | |")
            continue
        lines.append(head + _measured(c, record))
        notes += [f"- {c.title}, {MODELS[c.model]}, {c.precision}: {note}" for note in _notes(c, record)]
    return [*lines, "", *notes]


def _measured(c: Comparison, record: dict[str, Any]) -> str:
    ours, fastest, defaults = (seconds(record, side) for side in ("ours", "TRL, fastest", "TRL, defaults"))
    peak = {side: turns[-1]["peak_mib"] for side, turns in record["turns"].items()}
    least = min(value for side, value in peak.items() if side != "ours")
    memory_aim = f"≤ {c.memory_aim:g}×" if c.memory_aim else ""
    return (
        f" {_middle(ours):.2f} | {_middle(fastest):.2f} | {ratio(fastest, ours)} | {c.aim:g}× | {ratio(defaults, ours)}"
        f" | {peak['ours']:,.0f} MiB, {peak['ours'] / least:.2f}× | {memory_aim} | {_losses(c, record)} |"
    )


def seconds(record: dict[str, Any], side: str) -> list[float]:
    """Of each turn after the warm-up."""
    return [turn["seconds"] for turn in record["turns"][side][1:]]


def _middle(values: list[float]) -> float:
    return ratio(values, [1.0] * len(values)).median


def _losses(c: Comparison, record: dict[str, Any]) -> str:
    """The first steps' of ours and of the peer, and whether they agree; of PPO the entropy, for answers are sampled."""
    name, tolerance = ("entropy", SAMPLED_TOLERANCE) if c.work == "ppo" else ("loss", TOLERANCE)
    ours, theirs = ([t[name] for t in record["turns"][side][:FIRST_STEPS]] for side in ("ours", "TRL, fastest"))
    verdict = "" if agree(ours, theirs, tolerance) else "**apart** "
    pairs = ", ".join(f"{a:.4f}/{b:.4f}" for a, b in zip(ours, theirs, strict=True))
    return f"{verdict}{name + ' ' if c.work == 'ppo' else ''}{pairs}"


def _notes(c: Comparison, record: dict[str, Any]) -> list[str]:
    notes = []
    facts, turns = record["facts"], record["turns"]
    if "reference_seconds" in facts["ours"]:
        ours, theirs = facts["ours"]["reference_seconds"], facts["TRL, fastest"]["reference_seconds"]
        with_it = ratio(
            [s + theirs for s in seconds(record, "TRL, fastest")], [s + ours for s in seconds(record, "ours")]
        )
        defaults = ratio(seconds(record, "TRL, defaults"), [s + ours for s in seconds(record, "ours")])
        notes.append(
            f"the reference's log-probs, once: {ours:.2f} s a batch, TRL {theirs:.2f} s. With one epoch's share of "
            f"them a step is {with_it} faster than TRL's fastest and {defaults} faster than its defaults"
        )
    if c.efficiency_aim:
        shares = [t["flops"] / t["seconds"] / t["gemm_flops"] for t in turns["ours"][1:]]
        rates = [t["gemm_flops"] / 1e9 for t in turns["ours"][1:]]
        made = ratio(shares, [1.0] * len(shares))
        notes.append(
            f"{100 * made.median:.0f} % ({100 * made.least:.0f}–{100 * made.greatest:.0f}) of the machine's own GEMM "
            f"rate, {min(rates):.0f}–{max(rates):.0f} GFLOP/s in the same run; aim {100 * c.efficiency_aim:.0f} %"
        )
    if c.work == "ppo":
        notes.append(_ppo_note(turns))
    load = max(record["machine"]["load_before"], 0.0)
    if load > BUSY:
        notes.append(f"measured while other processes ran (load {load:.1f} before it began)")
    return notes


def _ppo_note(turns: dict[str, list[dict[str, Any]]]) -> str:
    phases = turns["ours"][-1]["phases"]
    parts = ", ".join(f"{name.removeprefix('seconds/')} {spent:.1f} s" for name, spent in phases.items())
    value = [f"{turns[side][0]['value_loss']:.4f}" for side in ("ours", "TRL, fastest")]
    score = [f"{turns[side][0]['score']:.3f}" for side in ("ours", "TRL, fastest")]
    return f"ours spends {parts}; first step's value loss {'/'.join(value)}, mean score {'/'.join(score)}"
