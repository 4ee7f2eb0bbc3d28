"""One run, one hash: every method on several meshes of workers, and runs that are killed and go on with other workers.

    python -m bench.one_hash [--steps 20] [--meshes 1 2 4 2x2 4x2] [--shards 4] [--only sft gae]

A mesh is a number of workers; 4x2 are four workers of which two share the layers of a model (cluster.tensor 2).

A run's hash is the SHA-256 of its exported weights. Each run is a process of its own, with one thread a worker. A run
is killed with SIGKILL, together with its workers, once it has saved a checkpoint; then it goes on with ``--resume
auto``. The results stand in bench/results/one_hash.json; methods and meshes that are not named keep theirs.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.small_run import VERBS
from concordant.runs.identity import package_version

RESULTS = Path(__file__).parent / "results" / "one_hash.json"
MESHES = ("1", "2", "4", "2x2", "4x2")
MOVES = (("1", "2"), ("2", "4"), ("4", "1"), ("1", "2x2"), ("2x2", "1"))  # meshes before and after the kill


def start(verb: str, output: Path, steps: int, mesh: str, shards: int, **more: Any) -> subprocess.Popen[str]:
    workers, _, tensor = mesh.partition("x")
    cluster = {"workers": int(workers), "tensor": int(tensor or 1), "shards": shards}
    settings = {"verb": verb, "output": str(output), "steps": steps, "cluster": cluster}
    command = [sys.executable, "-m", "bench.small_run", json.dumps(settings | more)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    )


def hash_of(run: subprocess.Popen[str]) -> str:
    text, _ = run.communicate()
    return text.strip().splitlines()[-1][:16] if run.returncode == 0 else f"failed with exit code {run.returncode}"


def killed(verb: str, output: Path, steps: int, mesh: str, shards: int) -> bool:
    """Start a run and kill it after its first checkpoint. Returns whether it was killed before its end."""
    run = start(verb, output, steps, mesh, shards)
    while run.poll() is None and not list((output / "checkpoints").glob("step-*")):
        time.sleep(0.02)
    was_running = run.poll() is None
    if was_running:
        os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    return was_running


def measure(verb: str, folder: Path, steps: int, meshes: list[str], shards: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for mesh in meshes:
        started = time.monotonic()
        found[f"{mesh} workers"] = hash_of(start(verb, folder / f"{verb}-{mesh}", steps, mesh, shards))
        print(f"{verb} {mesh}: {found[f'{mesh} workers']} {time.monotonic() - started:.0f} s", flush=True)
    for before, after in MOVES:
        if {before, after} <= set(meshes):
            output = folder / f"{verb}-{before}-{after}"
            was = killed(verb, output, steps, before, shards)
            name = f"killed on {before}, resumed on {after}" if was else f"ended on {before} before the kill"
            found[name] = hash_of(start(verb, output, steps, after, shards, resume="auto"))
            print(f"{verb} {name}: {found[name]}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--meshes", nargs="+", default=list(MESHES))
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--only", nargs="+", default=list(VERBS), choices=list(VERBS))
    given = parser.parse_args()
    about = {"steps": given.steps, "shards": given.shards, "concordant": package_version()}
    before = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    rows = before.pop("methods", {}) if before.items() >= about.items() else {}
    for verb in given.only:
        with tempfile.TemporaryDirectory() as folder:
            found = {**rows.get(verb, {}), **measure(verb, Path(folder), given.steps, given.meshes, given.shards)}
        hashes = {value for name, value in found.items() if name != "equal"}
        rows[verb] = {name: value for name, value in found.items() if name != "equal"} | {"equal": len(hashes) == 1}
        RESULTS.write_text(json.dumps(about | {"methods": rows}, indent=1) + "\n", encoding="utf-8")
    different = [verb for verb, row in rows.items() if not row["equal"]]
    print(f"different: {', '.join(different)}" if different else "all hashes of each method are equal")
    sys.exit(bool(different))


if __name__ == "__main__":
    main()
