"""What the tests of Ray compare: ``python -m tests.engines.group.on_ray FOLDER``, which starts Ray once for all runs.

It prints, as JSON, the SHA-256 of the exported weights of each run.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from bench.small_run import run
from concordant.engines.group.handles import GroupGenerator

APART = {"generator": 2, "reference": 1, "reward": 1, "critic": 1}  # beside one worker for the policy
SHARDS = {"shards": 2}
AHEAD = {"max_lag": 1}
ON_RAY = SHARDS | {"ray": "local", "timeout": 300.0}


@contextmanager
def a_sampler_killed() -> Iterator[list[str]]:
    """Inside the block, one of the generator's workers is killed once, while it samples. The list says so."""
    generate, killed = GroupGenerator.generate, list[str]()

    def then_kill(self: GroupGenerator, *args: Any, **kwargs: Any) -> Any:
        pending = generate(self, *args, **kwargs)
        if not killed and self.version > 0:
            self.team.ray.kill(self.team.actors[1])
            killed.append("worker 1")
        return pending

    with mock.patch.object(GroupGenerator, "generate", then_kill):
        yield killed


def other_python(folder: str) -> Path:
    """A command that starts this Python, as another environment's Python is one, and leaves a file that says so."""
    command = Path(folder) / "python"
    command.write_text(f'#!/bin/sh\necho started >> "{folder}/started"\nexec "{sys.executable}" "$@"\n')
    command.chmod(0o755)
    return command


def hashes(folder: str) -> dict[str, Any]:
    def made(name: str, verb: str, cluster: dict[str, Any], **more: str) -> str:
        return run(verb, f"{folder}/{name}", 2, cluster, **more)

    found = {
        "sft in this process": made("sft", "sft", SHARDS),
        "sft on Ray": made("sft-ray", "sft", ON_RAY | {"workers": 2}),
    }
    apart = APART | {"generator_python": str(other_python(folder))}
    made("reward", "reward", {})
    scores = {"reward": f"{folder}/reward/model"}
    for verb in ("gae", "gae_lora"):
        found[f"{verb} in this process"] = made(verb, verb, SHARDS, **scores)
        found[f"{verb} apart"] = made(f"{verb}-apart", verb, ON_RAY | {"apart": apart}, **scores)
    found["gae ahead in this process"] = made("gae-ahead", "gae", SHARDS | AHEAD, **scores)
    with a_sampler_killed() as killed:
        cluster = ON_RAY | AHEAD | {"apart": apart}
        found["gae ahead, apart, with a sampler killed"] = made("gae-killed", "gae", cluster, **scores)
    return found | {"killed": killed, "started": (Path(folder) / "started").read_text().split()}


if __name__ == "__main__":
    print(json.dumps(hashes(sys.argv[1])))
