"""Taking turns: one comparison from its first process to the record of every turn."""

from __future__ import annotations

import json
import os
import platform
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.comparisons import Comparison
from bench.turns import ROOT, Side

BUSY = 0.1  # cores of other processes' work above which a measurement is marked
LOGS = ROOT / "bench" / ".material" / "logs"


@dataclass(frozen=True, slots=True)
class Peer:
    """Whose Python runs TRL, what is looked up first there, and with which settings it runs."""

    python: Path
    path: tuple[Path, ...] = ()
    variants: tuple[str, ...] = ("fastest", "defaults")


def compare(
    comparison: Comparison, material: Path, threads: int, runs: int, peer: Peer | None, device: str = "cpu"
) -> dict[str, Any]:
    """One warm-up turn each, then ``runs`` turns, ours and the peer's variants by turns; ours alone without a peer."""
    settings: dict[str, Any] = {
        "material": str(material), "work": comparison.work, "model": comparison.model, "batch": comparison.batch,
        "batches": runs + 1, "precision": comparison.precision, "samples": comparison.samples, "threads": threads,
        "device": device, "new_tokens": comparison.new_tokens, "longest_prompt": comparison.longest_prompt,
    }  # fmt: skip
    others = Others()
    print(f"{comparison.name}: {comparison.title}, {comparison.model}, {comparison.precision}", flush=True)
    sides = [Side("ours", Path(sys.executable), "bench.ours", settings, [], LOGS / "ours.log")]
    try:
        for variant in peer.variants if peer else ():
            log, module = LOGS / f"{variant}.log", f"bench.{'trl_ppo' if comparison.work == 'ppo' else 'trl_trainers'}"
            sides.append(Side(f"TRL, {variant}", peer.python, module, settings | {"variant": variant}, peer.path, log))
        turns: dict[str, list[dict[str, Any]]] = {side.name: [] for side in sides}
        for run in range(runs + 1):
            for side in sides:
                turn = side.turn()
                turns[side.name].append(turn)
                print(f"  {run or 'warm-up'} {side.name} {turn['seconds']:.2f} s", flush=True)
    finally:
        for side in sides:
            side.close()
    return {
        "comparison": {name: getattr(comparison, name) for name in Comparison.__slots__},
        "threads": threads,
        "machine": machine() | {"other_cores": others.cores()},
        "facts": {side.name: side.facts for side in sides},
        "turns": turns,  # the first of each is the warm-up
    }


def machine() -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "when": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }


def processor() -> str:
    """The name of this machine's processor as the name of a folder, such as "amd-epyc"."""
    return re.sub(r"[^a-z0-9]+", "-", str(machine()["cpu"]).lower()).strip("-") or "unknown"


class Others:
    """How many cores' worth of work processes other than ours did since this was made; 0 where /proc/stat is not."""

    def __init__(self) -> None:
        self._start = self._now()

    def cores(self) -> float:
        wall, busy, own = (now - then for now, then in zip(self._now(), self._start, strict=True))
        return max(0.0, busy - own) / max(wall, 1e-9)

    def note(self) -> str:
        """A sentence where they did more than a system at rest does, else nothing."""
        return busy_note(self.cores())

    @staticmethod
    def _now() -> tuple[float, float, float]:
        """Seconds: on the wall, of all processes, of this one and the children it has waited for."""
        stat = Path("/proc/stat")
        busy = 0.0
        if stat.is_file():
            user, nice, system, _, _, interrupt, soft, *_ = map(int, stat.read_text(encoding="ascii").split()[1:9])
            busy = (user + nice + system + interrupt + soft) / os.sysconf("SC_CLK_TCK")
        own = os.times()
        return time.perf_counter(), busy, own.user + own.system + own.children_user + own.children_system


def busy_note(cores: float) -> str:
    return f"measured while other processes kept {cores:.1f} cores busy" if cores > BUSY else ""


def save(path: Path, record: dict[str, Any]) -> None:
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def with_earlier(
    path: Path, rows: list[dict[str, Any]], names: tuple[str, ...], where: str = "rows"
) -> list[dict[str, Any]]:
    """``rows`` and those under ``where`` in an earlier file at ``path`` that differ from all of them in ``names``.

    So the seeds of a long measurement can be run one by one. The rows are in the order of the numbers of ``names``.
    """
    earlier = json.loads(path.read_text(encoding="utf-8"))[where] if path.is_file() else []
    new = {tuple(row[name] for name in names) for row in rows}
    kept = [row for row in earlier if tuple(row[name] for name in names) not in new]
    return sorted([*kept, *rows], key=lambda row: tuple(row[name] for name in names))
