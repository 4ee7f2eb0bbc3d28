"""Hardware, and every assumption of a plan as a number with a name, a unit and a source.

A user replaces a number by ``--assume NAME=NUMBER``. Nothing in this package has another number that depends on a
machine. ``PAPER`` marks a number that nobody of this project has measured.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from concordant.config.names import HardwareName
from concordant.core.errors import UserError

SHEET = "data sheet of the maker"
PAPER = "on paper, not measured"
MEASURED = "chosen for an AMD EPYC core, and checked by bench/plan.py (docs/plan.md)"
BENCH = "two AMD EPYC cores, measured (docs/bench.md)"
MARKET = "your price; a usual one for rent in 2026"
DOCTOR = "the doctor's own limit for a run"
ENGINE = "the engine: a GPU attends to a row under a mask, a CPU in segments"
GIGA, TERA, MiB, GiB = 1e9, 1e12, 2.0**20, 2.0**30


@dataclass(frozen=True, slots=True)
class Meaning:
    unit: str
    text: str


ASSUMPTIONS: dict[str, Meaning] = {
    "memory": Meaning("bytes", "memory of a worker"),
    "free": Meaning("share", "of the memory that stays free"),
    "base": Meaning("bytes", "of a process before it has a model"),
    "fragmentation": Meaning("share", "added to what a pass allocates, because freed memory does not fit exactly"),
    "holes": Meaning("bytes", "of freed memory that stays with the process, and of code compiled for products"),
    "peak_bf16": Meaning("operations/s", "of products in bf16, without sparsity"),
    "peak_fp32": Meaning("operations/s", "of products in fp32"),
    "reached": Meaning("share", "of the peak that the large products of training reach"),
    "attention_reached": Meaning("share", "of the peak that attention reaches"),
    "whole_row": Meaning("share", "of the pairs of tokens that do not see each other is computed too, under a mask"),
    "decode_reached": Meaning("share", "of the peak that the products of sampling reach, one token for each row"),
    "bandwidth": Meaning("bytes/s", "of the memory"),
    "bandwidth_reached": Meaning("share", "of the bandwidth that is reached"),
    "passes": Meaning("times", "each kept byte of a layer is moved, by a forward and a backward pass together"),
    "launch": Meaning("s", "to start one operation from Python"),
    "operations": Meaning("operations", "in the forward pass of one layer"),
    "overlaps": Meaning("share", "1: operations start while earlier ones run (GPU); 0: they wait for them (CPU)"),
    "node": Meaning("workers", "in one machine"),
    "link": Meaning("bytes/s", "in one direction between workers of one machine"),
    "network": Meaning("bytes/s", "in one direction between machines, for each worker"),
    "transfer_reached": Meaning("share", "of link and network that is reached"),
    "hidden_transfer": Meaning("share", "of the transfer of weights and gradients that takes place behind products"),
    "host_memory": Meaning("bytes", "of the processor for each worker, where offload keeps weights"),
    "host_bandwidth": Meaning("bytes/s", "of the processor's memory for each worker"),
    "host_link": Meaning("bytes/s", "in one direction between a worker and the processor's memory"),
    "price": Meaning("dollars/h", "of a worker"),
}


@dataclass(frozen=True, slots=True)
class Number:
    value: float
    source: str


class Machine:
    """The assumptions for one kind of worker, as attributes by name: ``machine["bandwidth"]``."""

    def __init__(self, name: HardwareName, numbers: Mapping[str, Number]) -> None:
        self.name = name
        self.numbers = dict(numbers)

    def __getitem__(self, name: str) -> float:
        return self.numbers[name].value

    @property
    def is_gpu(self) -> bool:
        return self.name != "cpu"

    @property
    def room(self) -> float:
        """Bytes that a worker may use."""
        return self["memory"] * (1 - self["free"])

    @property
    def host_room(self) -> float:
        """Bytes of the processor's memory that a worker on a GPU may use."""
        return self["host_memory"] * (1 - self["free"])


def _gpu(
    gigabytes: float,
    bf16: float,
    fp32: float,
    bandwidth: float,
    link: float,
    network: float,
    price: float,
    host_link: float = 32,
) -> dict[str, Number]:
    return {
        "memory": Number(gigabytes * GIGA, SHEET),
        "free": Number(0.1, DOCTOR),
        "base": Number(0.6 * GiB, PAPER),
        "fragmentation": Number(0.1, PAPER),
        "holes": Number(0.0, PAPER),
        "peak_bf16": Number(bf16 * TERA, SHEET),
        "peak_fp32": Number(fp32 * TERA, SHEET),
        "reached": Number(0.5, PAPER),
        "attention_reached": Number(0.25, PAPER),
        "whole_row": Number(1.0, ENGINE),
        "decode_reached": Number(0.2, PAPER),
        "bandwidth": Number(bandwidth * GIGA, SHEET),
        "bandwidth_reached": Number(0.8, PAPER),
        "passes": Number(6.0, PAPER),
        "launch": Number(8e-6, PAPER),
        "operations": Number(60, PAPER),
        "overlaps": Number(1.0, PAPER),
        "node": Number(8, PAPER),
        "link": Number(link * GIGA, SHEET),
        "network": Number(network * GIGA, PAPER),
        "transfer_reached": Number(0.7, PAPER),
        "hidden_transfer": Number(0.5, PAPER),
        "host_memory": Number(128 * GIGA, PAPER),
        "host_bandwidth": Number(40 * GIGA, PAPER),
        "host_link": Number(host_link * GIGA, SHEET),
        "price": Number(price, MARKET),
    }


_CPU = {
    "memory": Number(32 * GIGA, PAPER),
    "free": Number(0.1, DOCTOR),
    "base": Number(0.5 * GiB, MEASURED),
    "fragmentation": Number(0.1, PAPER),
    "holes": Number(100 * MiB, MEASURED),
    "peak_bf16": Number(0.74 * TERA, BENCH),
    "peak_fp32": Number(0.38 * TERA, BENCH),
    "reached": Number(0.8, MEASURED),
    "attention_reached": Number(0.3, MEASURED),
    "whole_row": Number(0.0, ENGINE),
    "decode_reached": Number(0.4, MEASURED),
    "bandwidth": Number(20 * GIGA, PAPER),
    "bandwidth_reached": Number(0.8, PAPER),
    "passes": Number(6.0, PAPER),
    "launch": Number(1e-5, PAPER),
    "operations": Number(60, PAPER),
    "overlaps": Number(0.0, PAPER),
    "node": Number(1, PAPER),
    "link": Number(2 * GIGA, PAPER),
    "network": Number(1 * GIGA, PAPER),
    "transfer_reached": Number(0.7, PAPER),
    "hidden_transfer": Number(0.0, PAPER),
    "host_memory": Number(32 * GIGA, PAPER),
    "host_bandwidth": Number(20 * GIGA, PAPER),
    "host_link": Number(20 * GIGA, PAPER),
    "price": Number(0.10, MARKET),
}

HARDWARE: dict[HardwareName, dict[str, Number]] = {
    "cpu": _CPU,
    "rtx-4090": _gpu(24, 165.2, 82.6, 1_008, 32, 1.25, 0.40),
    "a100-40gb": _gpu(40, 312, 19.5, 1_555, 300, 25, 1.30),
    "a100-80gb": _gpu(80, 312, 19.5, 2_039, 300, 25, 1.70),
    "h100-80gb": _gpu(80, 989.4, 66.9, 3_350, 450, 50, 2.50, 64),
    "h200-141gb": _gpu(141, 989.4, 66.9, 4_800, 450, 50, 3.50, 64),
}
_ABOVE_ZERO = ("memory", "bandwidth", "link", "network", "node", "host_memory", "host_bandwidth", "host_link")
_SHARES = ("free", "overlaps", "hidden_transfer", "whole_row")  # may be 0; every other share is above 0
GIVEN = "given by --assume"


def machine(name: HardwareName, assume: Sequence[str] = ()) -> Machine:
    """The machine ``name`` with the numbers of ``assume``, a list of NAME=NUMBER.

    Raises:
        UserError: there is no such assumption, or the number is out of its range.
    """
    numbers = dict(HARDWARE[name])
    for item in assume:
        key, _, text = item.partition("=")
        if key not in numbers:
            near = difflib.get_close_matches(key, numbers, n=1)
            guess = f' Did you mean "{near[0]}"?' if near else ""
            raise UserError(f'assume: unknown assumption "{key}".{guess} Known: {", ".join(numbers)}')
        numbers[key] = Number(_number(key, text), GIVEN)
    return Machine(name, numbers)


def _number(key: str, text: str) -> float:
    unit = ASSUMPTIONS[key].unit
    try:
        value = float(text)
    except ValueError:
        raise UserError(f'assume: {key} is "{text}"; expected a number, {unit}') from None
    lowest_is_allowed = key in _SHARES or (unit != "share" and key not in _ABOVE_ZERO and "peak" not in key)
    highest = 1.0 if unit == "share" and key != "fragmentation" else math.inf
    too_low = value < 0 if lowest_is_allowed or key == "fragmentation" else value <= 0
    full = key == "free" and value >= 1
    if math.isnan(value) or math.isinf(value) or too_low or value > highest or full or (key == "node" and value < 1):
        low = "0 or more" if lowest_is_allowed or key == "fragmentation" else "above 0"
        raise UserError(f"assume: {key} is {text}; expected a number {low}{' and at most 1' if highest == 1 else ''}")
    return value
