"""``concordant plan`` against what is measured here: peak memory and time of a step, on a CPU and one worker.

    python -m bench.plan [ROW …] [--threads 1] [--steps 3] [--output DIR]

Every row is a process of its own: random weights, trees of equal lengths, one step to warm up, then the measured steps.
Other processes may take cores. So times are processor seconds of the row's process, divided by its threads. Before and
after each step the process times products of two matrices of 1,024 × 1,024 on the same clock, and the plan gets their
mean rate as ``peak_fp32``. The plan gets the memory of the process before it has a model as ``base``. All other numbers
are the plan's own. The record has the seconds on the wall and the parts of the plan too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.drive import Others, machine, processor, save
from bench.turns import ROOT, peak_mib
from concordant.config.names import PlannedMethod
from concordant.config.plan import PlanConfig, ShapeConfig
from concordant.planning.search import Plan
from concordant.stages.plan import planned_for

MEMORY_AIM, TIME_AIM = 0.15, 0.30
SMALL = ShapeConfig(vocabulary=8_192, hidden=384, layers=6, heads=6, mlp=1_024, tied=True)
MIDDLE = ShapeConfig(vocabulary=16_384, hidden=640, layers=10, heads=10, kv_heads=5, mlp=1_728, tied=True)
SHAPES = {"13.8 M": SMALL, "55.8 M": MIDDLE}
RANK = 16
SQUARE = 1_024
SLOTS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    model: str
    method: PlannedMethod
    rank: int
    batch: int
    prompt: int
    response: int
    samples: int = 1

    @property
    def name(self) -> str:
        return f"{self.method}-{self.model.replace(' ', '')}{'-lora' if self.rank else ''}"

    def config(self, assume: Sequence[str]) -> PlanConfig:
        config = PlanConfig(
            shape=SHAPES[self.model], method=self.method, hardware="cpu", gpus=1, prompt_tokens=self.prompt,
            response_tokens=self.response, batch_size=self.batch, keep_best=False, assume=list(assume),
            micro_batch_tokens=1_536,
        )  # fmt: skip
        if self.method == "ppo":
            config.samples, config.slots = self.samples, SLOTS
        if self.method == "dpo":
            config.slots = 1  # the measured steps have no evaluation
        config.model.lora.rank = self.rank
        return config


_SIZES: dict[str, list[dict[str, Any]]] = {
    "13.8 M": [
        {"method": "sft", "batch": 12, "prompt": 128, "response": 128},
        {"method": "reward", "batch": 8, "prompt": 128, "response": 128},
        {"method": "dpo", "batch": 8, "prompt": 128, "response": 128},
        {"method": "ppo", "batch": 8, "prompt": 64, "response": 64, "samples": 4},
    ],
    "55.8 M": [
        {"method": "sft", "batch": 6, "prompt": 128, "response": 128},
        {"method": "dpo", "batch": 4, "prompt": 128, "response": 128},
        {"method": "ppo", "batch": 4, "prompt": 64, "response": 64, "samples": 4},
    ],
}
ROWS = [Row(model=model, rank=rank, **sizes) for model, all_ in _SIZES.items() for sizes in all_ for rank in (0, RANK)]
NOT_MEASURED = "Several workers are measured by bench/plan_workers.py, in memory alone"


# -- one row, in its own process -----------------------------------------------------------------------


def measure(row: Row, threads: int, steps: int) -> dict[str, Any]:
    """The numbers of a row. This is the only function of the file that imports torch."""
    import torch

    from bench.plan_steps import step_of, warm_libraries
    from concordant.kernels.allocator import freed_memory_kept

    torch.set_num_threads(threads)
    a, b = (torch.randn(SQUARE, SQUARE) for _ in range(2))
    warm_libraries()
    rate = _rate_of(a, b, threads)
    rate()
    base = resident_mib()
    step = step_of(row, SHAPES[row.model], SLOTS)
    seconds, wall, rates, phases = [], [], [], []
    with freed_memory_kept():  # as in every run
        for number in range(steps + 1):
            before = rate()
            start, on_wall = time.process_time(), time.perf_counter()
            parts = step(number)
            seconds.append((time.process_time() - start) / threads)
            wall.append(time.perf_counter() - on_wall)
            rates.append((before + rate()) / 2)
            phases.append(parts)
    numbers = {"seconds": seconds, "wall": wall, "gemm": rates, "phases": phases}
    return {"base_mib": base, "peak_mib": peak_mib()} | {name: values[1:] for name, values in numbers.items()}


def _rate_of(a: Any, b: Any, threads: int) -> Callable[[], float]:
    """Operations a second of a square product, the mean of eight. Its result is freed at once."""
    from concordant.kernels.products import multiply

    def rate() -> float:
        start = time.process_time()
        for _ in range(8):
            multiply(a, b)
        return 8 * 2.0 * SQUARE**3 / ((time.process_time() - start) / threads)

    return rate


def resident_mib() -> float:
    (line,) = (x for x in Path("/proc/self/status").read_text(encoding="ascii").splitlines() if x.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


# -- all rows -----------------------------------------------------------------------------------------


def compared(row: Row, measured: dict[str, Any]) -> dict[str, Any]:
    """Measured beside planned. The memory over the base is compared too: it has nothing of the base to hide behind."""
    rate = statistics.mean(measured["gemm"])
    plan = planned_for(row.config([f"peak_fp32={rate:.6g}", f"base={measured['base_mib'] * 2**20:.0f}"])).plan
    planned_mib, base = plan.memory.total / 2**20, measured["base_mib"]
    seconds = statistics.median(measured["seconds"])
    return {
        "row": asdict(row),
        "measured": measured,
        "planned": _parts(plan),
        "memory_ratio": planned_mib / measured["peak_mib"],
        "memory_over_base_ratio": (planned_mib - base) / (measured["peak_mib"] - base),
        "time_ratio": plan.duration.total / seconds,
    }


def _parts(plan: Plan) -> dict[str, Any]:
    memory = plan.memory
    mib = {name: size / 2**20 for name, size in memory.resident.items()}
    mib |= {f"{phase}: {name}": size / 2**20 for phase, parts in memory.phases.items() for name, size in parts.items()}
    return {"mib": mib | {"total": memory.total / 2**20}, "seconds": plan.duration.parts, "total": plan.duration.total}


def table(records: Sequence[dict[str, Any]]) -> str:
    lines = [
        "| row | peak, MiB | planned | ratio | over the base, MiB | planned | ratio | step, s | planned | ratio |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in records:
        m, base = r["measured"], r["measured"]["base_mib"]
        total, seconds = r["planned"]["mib"]["total"], statistics.median(m["seconds"])
        lines.append(
            f"| {Row(**r['row']).name} "
            f"| {m['peak_mib']:,.0f} | {total:,.0f} | {_ratio(r['memory_ratio'], MEMORY_AIM)} | "
            f"{m['peak_mib'] - base:,.0f} | {total - base:,.0f} | {_ratio(r['memory_over_base_ratio'], MEMORY_AIM)} | "
            f"{seconds:.2f} | {r['planned']['total']:.2f} | {_ratio(r['time_ratio'], TIME_AIM)} |"
        )
    return "\n".join(lines) + "\n"


def _ratio(value: float, aim: float) -> str:
    """Bold where the plan misses its aim."""
    return f"{value:.2f}" if 1 - aim <= value <= 1 + aim else f"**{value:.2f}**"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=", ".join(row.name for row in ROWS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--again", action="store_true", help="compare the saved measurements with the present plan")
    parser.add_argument("--only", default="", help=argparse.SUPPRESS)  # a row, in a process of its own
    parser.add_argument("--output", type=Path, default=ROOT / "bench" / "results" / processor())
    args = parser.parse_args(arguments)
    if args.only:
        row = next(row for row in ROWS if row.name == args.only)
        print(json.dumps(measure(row, args.threads, args.steps)))
        return 0
    path = args.output / "plan.json"
    saved = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"records": []}
    found = {Row(**r["row"]).name: r["measured"] for r in saved["records"]}
    others, where = Others(), saved.get("machine")
    for row in ROWS:
        if args.again or (args.rows and row.name not in args.rows):
            continue
        command = [sys.executable, "-m", "bench.plan", "--only", row.name]
        command += ["--threads", str(args.threads), "--steps", str(args.steps)]
        done = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True)
        found[row.name] = json.loads(done.stdout.splitlines()[-1])
        where = machine() | {"other_cores": others.cores(), "threads": args.threads}
        write(args.output, found, where)  # after every row: a row takes minutes
    print(write(args.output, found, where))
    return 0


def write(folder: Path, found: dict[str, Any], where: Any) -> str:
    """Compare what was measured with the present plan, and write both. Returns the table."""
    records = [compared(row, found[row.name]) for row in ROWS if row.name in found]
    text = table(records) + f"\nAims: memory within 15 %, time within 30 %. {NOT_MEASURED}.\n"
    folder.mkdir(parents=True, exist_ok=True)
    save(folder / "plan.json", {"machine": where, "not_measured": NOT_MEASURED, "records": records})
    (folder / "plan.md").write_text(text, encoding="utf-8")
    return text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
