"""A run of seconds on two hosts, with one fault: ``python -m bench.two_hosts_driver '{"fault": "raise", …}'``.

It prints, as JSON, the SHA-256 of the exported weights, or the error and how long after the fault it came. The keys
beside ``fault`` are those of ``bench.small_run``. ``bench/two_hosts.py`` starts it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from bench.small_run import run
from concordant.engines.group.handles import GroupGenerator, GroupLearner
from concordant.engines.group.orders import Order
from concordant.engines.ranks import current_ranks

LINK = "veth-a"  # this host's end of the link to the other host
AFTER = 2  # optimizer steps; the first checkpoint is older
_began = [0.0]  # when the fault happened


def misbehave(way: str) -> list[int]:
    """What every rank is told to do: the last rank fails in this way, and the others wait for it in a collective."""
    ranks = current_ranks()
    if ranks.rank == ranks.size - 1:
        if way == "raise":
            raise ValueError("the worker's own words")
        if way == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if way == "hang":
            time.sleep(3600)
    return ranks.gather(ranks.rank)


def cut_the_link() -> None:
    subprocess.run(["ip", "link", "set", LINK, "down"], check=True)


@contextmanager
def fault(way: str, role: str) -> Iterator[None]:
    """Inside the block, once, the workers that play ``role`` meet the fault ``way``; "" is none."""
    kind: Any = GroupGenerator if role == "generator" else GroupLearner
    verb = "generate" if role == "generator" else "forward_backward"
    usual = getattr(kind, verb)

    def faulty(self: Any, *args: Any, **kwargs: Any) -> Any:
        if way and not _began[0] and self.version >= AFTER:
            _began[0] = time.monotonic()
            if way == "cut":
                cut_the_link()
            else:
                told = self.team.order(Order(verb=f"{__name__}:misbehave", arguments=[way]))
                if role == "policy":
                    told.result()
        return usual(self, *args, **kwargs)

    with mock.patch.object(kind, verb, faulty):
        yield


def main(fault_: str, role: str, **settings: Any) -> dict[str, Any]:
    started = time.monotonic()
    try:
        with fault(fault_, role):
            found: dict[str, Any] = {"hash": run(**settings)[:16]}
    except Exception as problem:
        found = {"kind": type(problem).__name__, "error": str(problem)}
        found["seconds after the fault"] = round(time.monotonic() - _began[0], 1)
    return found | {"seconds": round(time.monotonic() - started, 1)}


if __name__ == "__main__":
    from bench import two_hosts_driver as me  # by its own name, which the ranks can import

    given = json.loads(sys.argv[1])
    print(json.dumps(me.main(given.pop("fault"), given.pop("role"), **given)), flush=True)
    os._exit(0)  # Ray's own exit waits for a host that is not there
