"""A plan as text: the mesh, the memory, the time, the cost, every assumption, and the YAML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from concordant.planning.hardware import ASSUMPTIONS, GIGA, TERA, GiB, Machine
from concordant.planning.search import Plan
from concordant.planning.settings import refusals, yaml_of
from concordant.planning.work import Setup

ON_PAPER = "On paper: no plan for a GPU or for several workers was compared with a run yet. See docs/plan.md."
_LARGE = ((TERA, "T"), (GIGA, "G"))


def page(plan: Plan, name: str, steps: int, other: Plan | None = None) -> str:
    """The whole page. ``other``: the plan with an adapter, where all weights do not fit."""
    parts = [
        headline(plan, name) + (f"\n{ON_PAPER}" if is_on_paper(plan) else ""),
        table(("setup", "value"), setup_rows(plan)),
        table(("memory of the fullest worker", "GiB", "phase"), memory_rows(plan)),
        table(("time of a step", "s", "share"), time_rows(plan)),
        table(("run", "value"), run_rows(plan, steps)),
        table(("assumption", "value", "meaning", "source"), assumption_rows(plan.machine)),
        "Replace any of these numbers by --assume NAME=NUMBER.",
    ]
    if plan.fits:
        parts.append(_yaml(plan, name))
    elif other is not None:
        parts += [f"With an adapter of rank {other.work.rank} it fits: {mesh(other)}.", _yaml(other, name)]
    return "\n\n".join(parts)


def _yaml(plan: Plan, name: str) -> str:
    yaml, lacks = yaml_of(plan, name)
    note = f"\n# This version has no key for: {', '.join(lacks)}. So it cannot run this mesh." if lacks else ""
    note += "".join(f"\n# This version refuses this mesh. {why}." for why in refusals(plan))
    return f"# Settings to paste into a file for --config:\n{yaml.rstrip()}{note}"


def headline(plan: Plan, name: str) -> str:
    work = plan.work
    trained = f"LoRA of rank {work.rank}" if work.rank else "all weights trained"
    number = work.shape.weights()
    size = f"{number / GIGA:.2f} billion" if number >= GIGA else f"{number / 1e6:.1f} million"
    first = f"{work.method} of {name or 'the given shape'} ({size} weights, {trained}) on {plan.machine.name}"
    if plan.fits:
        return f"{first}: {mesh(plan)} fits."
    if not plan.fits_host:
        held = sum(plan.memory.offloaded.values()) / GiB
        return (
            f"{first}: nothing that was tried fits. With {mesh(plan)}, {held:.1f} GiB of a worker wait in the "
            f"processor's memory, which has room for {plan.machine.host_room / GiB:.1f} GiB of each worker."
        )
    return (
        f"{first}: nothing that was tried fits. The smallest need is {plan.memory.total / GiB:.1f} GiB a worker with "
        f"{mesh(plan)}, and a worker has room for {plan.machine.room / GiB:.1f} GiB."
    )


def is_on_paper(plan: Plan) -> bool:
    """Whether such a plan was never compared with a run."""
    return plan.machine.is_gpu or plan.setup.workers > 1


def mesh(plan: Plan) -> str:
    setup = plan.setup
    workers = f"{setup.workers:,} worker{'s' if setup.workers > 1 else ''}"
    return f"{workers} (pipeline {setup.pipeline} × data {setup.data} × tensor {setup.tensor})"


def setup_rows(plan: Plan) -> list[tuple[str, ...]]:
    work, setup = plan.work, plan.setup
    packed = not plan.machine.is_gpu
    many = setup.micro_batches(work, packed)
    return [
        ("mesh: pipeline × data × tensor", f"{setup.pipeline} × {setup.data} × {setup.tensor}"),
        ("weights of data-parallel ranks", _weights(setup)),
        ("activation checkpointing", "on" if setup.recompute else "off"),
        ("micro_batch_tokens", f"{setup.micro_batch_tokens:,}"),
        ("micro-batches of a rank", f"{many:,} for each optimizer step"),
        ("precision of products", "bf16" if work.bf16 else "fp32"),
        ("tokens of a step", f"{work.tokens:,} in {work.trees:,} trees of {work.tree.tokens:,}"),
    ]


def _weights(setup: Setup) -> str:
    if setup.offload:
        return "divided, and in the processor's memory between uses"
    return "divided" if setup.sharded else "whole on each"


def memory_rows(plan: Plan) -> list[tuple[str, ...]]:
    memory = plan.memory
    rows: list[tuple[str, ...]] = [(name, gibibytes(size), "always") for name, size in memory.resident.items()]
    for phase, parts in memory.phases.items():
        mark = " (largest)" if phase == memory.largest and parts else ""
        rows += [(name, gibibytes(size), phase + mark) for name, size in parts.items()]
    rows.append(("together, in the largest phase", gibibytes(memory.total), ""))
    share = f"{1 - plan.machine['free']:.0%}"
    rows.append(("room", gibibytes(plan.machine.room), f"{share} of the worker's memory"))
    if memory.offloaded:
        host = "in the processor's memory"
        rows += [(name, gibibytes(size), host) for name, size in memory.offloaded.items()]
        rows.append((f"together {host}", gibibytes(sum(memory.offloaded.values())), ""))
        rows.append(("room there", gibibytes(plan.machine.host_room), f"{share} of a worker's share"))
    return rows


def time_rows(plan: Plan) -> list[tuple[str, ...]]:
    total = plan.duration.total
    parts = plan.duration.parts
    rows: list[tuple[str, ...]] = [(name, seconds(s), f"{s / total:.0%}") for name, s in parts.items() if s]
    return [*rows, ("together", seconds(total), "")]


def run_rows(plan: Plan, steps: int) -> list[tuple[str, ...]]:
    workers = plan.setup.workers
    rate = plan.tokens_per_second
    tokens = steps * plan.work.tokens
    dollars = plan.dollars(steps)
    return [
        ("tokens a second", f"{rate:,.0f} ({rate / workers:,.0f} a worker)"),
        ("operations of products and attention", f"{large(plan.duration.operations / plan.duration.total)}/s a worker"),
        (f"time of {steps:,} steps", f"{plan.hours(steps):,.2f} h"),
        (f"cost of {steps:,} steps", f"{dollars:,.2f} dollars"),
        ("cost of a million tokens", f"{1e6 * dollars / tokens:,.4f} dollars"),
    ]


def assumption_rows(machine: Machine) -> list[tuple[str, ...]]:
    return [
        (name, value_of(machine[name], ASSUMPTIONS[name].unit), ASSUMPTIONS[name].text, machine.numbers[name].source)
        for name in ASSUMPTIONS
    ]


def value_of(value: float, unit: str) -> str:
    if unit == "bytes":
        return f"{value / GIGA:,.2f} GB"
    return f"{large(value)} {unit}"


def large(value: float) -> str:
    for size, letter in _LARGE:
        if value >= size:
            return f"{value / size:,.4g} {letter}"
    return f"{value:,.4g}"


def gibibytes(size: float) -> str:
    return f"{size / GiB:.2f}"


def seconds(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table with columns of equal width, so that it is also readable in a terminal."""
    lines = [titles, *rows]
    widths = [max(len(row[i]) for row in lines) for i in range(len(titles))]
    text = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |" for row in lines]
    return "\n".join([text[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *text[1:]])


def as_json(plan: Plan, name: str, steps: int, other: Plan | None = None) -> dict[str, Any]:
    """The plan as plain values: bytes, seconds and dollars."""
    setup, memory, work = plan.setup, plan.memory, plan.work
    chosen = plan if plan.fits else other
    yaml, lacks = yaml_of(chosen, name) if chosen else ("", [])
    return {
        "method": work.method,
        "hardware": plan.machine.name,
        "weights": work.shape.weights(),
        "fits": plan.fits,
        "on_paper": is_on_paper(plan),
        "setup": {
            "workers": setup.workers,
            "pipeline": setup.pipeline,
            "data": setup.data,
            "tensor": setup.tensor,
            "sharded": setup.sharded,
            "offload": setup.offload,
            "activation_checkpointing": setup.recompute,
            "micro_batch_tokens": setup.micro_batch_tokens,
        },
        "memory": {
            "always": memory.resident,
            **memory.phases,
            "total": memory.total,
            "room": plan.machine.room,
            "offloaded": memory.offloaded,
        },
        "seconds": {**plan.duration.parts, "total": plan.duration.total},
        "tokens": work.tokens,
        "tokens_per_second": plan.tokens_per_second,
        "steps": steps,
        "hours": plan.hours(steps),
        "dollars": plan.dollars(steps),
        "assumptions": {key: {"value": n.value, "source": n.source} for key, n in plan.machine.numbers.items()},
        "yaml": yaml,
        "keys_that_this_version_lacks": lacks,
        "refused_by_this_version": refusals(chosen) if chosen else [],
        "fits_with_adapter": bool(other and not plan.fits),
    }
