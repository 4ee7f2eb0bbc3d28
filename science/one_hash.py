"""Law 11, two workers, one hash: the smallest reward model of law 2, trained by one process and by two."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from subprocess import run
from typing import Any

from science import decide, proxies, world

SHARDS, PAIRS, STEPS = 4, 500, 20


def measure(seed: int, folder: Path) -> dict[str, Any]:
    start, data = proxies.start(folder, seed, "small", 0), world.pairs(folder, PAIRS, 0.0, seed)
    found = {}
    for workers in (1, 2):
        output = folder / f"hash-{seed}-{workers}"
        options = {
            "output": output, "seed": seed, "model.name": start, "model.device": "cpu", "model.precision": "fp32",
            "data": data, "train.max_steps": STEPS, "train.batch_size": 16, "train.learning_rate": 2e-3,
            "train.tensorboard": "false", "cluster.workers": workers, "cluster.shards": SHARDS, "resume": "auto",
        }  # fmt: skip
        words = [f"--{name}={value}" for name, value in options.items()]
        run([sys.executable, "-m", "concordant", "reward", *words], check=True)  # each run in a process of its own
        files = sorted((output / "model").glob("*.safetensors"))
        found[str(workers)] = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    return found


def decisions(results: Sequence[dict[str, Any]]) -> dict[str, decide.Decision]:
    return {"hash": decide.every([float(r["1"] == r["2"]) for r in results], least=1.0)}
