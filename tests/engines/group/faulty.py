"""A team with a worker that fails: ``python -m tests.engines.group.faulty raise|kill|hang|both``.

It prints, as JSON, the error that the driver gets and the seconds that this took, and those until all had ended.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from datetime import timedelta

import torch.distributed as dist

from concordant.engines.group.orders import Order
from concordant.engines.group.torch_team import TorchTeam, start_here
from concordant.engines.ranks import current_ranks

TIMEOUT = 4.0  # seconds


def fail(way: str) -> list[int]:
    """What every rank is told to do: rank 1 fails in this way, and the other waits for it in a collective."""
    if way == "both" or (way == "raise" and dist.get_rank() == 1):
        raise ValueError("the worker's own words")
    if way == "kill" and dist.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if way == "hang" and dist.get_rank() == 1:
        time.sleep(3600)
    return gather()


def gather() -> list[int]:
    return current_ranks().gather(dist.get_rank())


def told(team: TorchTeam, way: str) -> dict[str, object]:
    started = time.monotonic()
    try:
        team.order(Order(verb=f"{__spec__.name}:fail", arguments=[way])).result()
    except Exception as problem:
        return {"kind": type(problem).__name__, "error": str(problem), "seconds": time.monotonic() - started}
    return {"kind": "none"}


if __name__ == "__main__":
    team = start_here(2, timedelta(seconds=TIMEOUT))
    started = time.monotonic()
    found = told(team, sys.argv[1])
    if sys.argv[1] == "both":  # the ranks are still in step
        found["then"] = team.order(Order(verb=f"{__spec__.name}:gather")).result()
    team.close()
    found["ended"] = time.monotonic() - started
    print(json.dumps(found))
