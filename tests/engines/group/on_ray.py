"""What the tests of Ray compare: ``python -m tests.engines.group.on_ray FOLDER``, which starts Ray once for all runs.

It prints, as JSON, the SHA-256 of the exported weights of each run.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from bench.small_run import run

SHARDS = {"shards": 2}
ON_RAY = SHARDS | {"ray": "local", "timeout": 60.0}


def hashes(folder: str) -> dict[str, str]:
    def made(name: str, verb: str, cluster: dict[str, Any]) -> str:
        return run(verb, f"{folder}/{name}", 2, cluster)

    return {
        "sft in this process": made("sft", "sft", SHARDS),
        "sft on Ray": made("sft-ray", "sft", ON_RAY | {"workers": 2}),
    }


if __name__ == "__main__":
    print(json.dumps(hashes(sys.argv[1])))
