"""A helper: a rank other than the driver. It carries out orders until the driver ends."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
import threading
import time
import traceback
from datetime import timedelta
from typing import TYPE_CHECKING

from concordant.engines.group import started

if TYPE_CHECKING:
    from concordant.engines.group.orders import Order

DRIVERS_TURN = 2.0  # seconds in which the driver's own error must come, if it has one
_LOOK_EVERY = 1.0  # seconds between two looks whether the driver still runs
USUAL_TIMEOUT = 600.0  # seconds; as in ClusterConfig, for helpers that torchrun or srun started


def main() -> int:
    """Serve the driver. Returns the exit code: 0 if the driver ended, 1 if an order failed here."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the driver decides how a run stops
        signal.signal(number, signal.SIG_IGN)
    if started.DRIVER in os.environ:
        threading.Thread(target=_end_with, args=(int(os.environ[started.DRIVER]),), daemon=True).start()
    seconds = float(os.environ.get(started.TIMEOUT, USUAL_TIMEOUT))
    from concordant.engines.group.collectives import TorchRanks
    from concordant.engines.group.orders import Worker
    from concordant.engines.group.torch_team import Channel
    from concordant.kernels.allocator import freed_memory_kept

    started.initialize()  # after the imports, which take long
    worker = Worker(TorchRanks(0, timedelta(seconds=seconds)))
    channel = Channel()
    with freed_memory_kept():
        while True:
            try:
                order = channel.receive()
            except RuntimeError:  # the driver is gone
                return 0
            if order is None:
                return 0
            faulthandler.dump_traceback_later(0.9 * seconds)
            try:
                worker.do(order)
            except BaseException as problem:
                if not _driver_raised_too(problem, order):
                    return 1
            finally:
                faulthandler.cancel_dump_traceback_later()


def _end_with(driver: int) -> None:
    """End this process when the process ``driver``, which started it, is gone.

    Ranks that have met notice this by the closed connection. A driver may be killed before; then a helper would wait
    for ``started.IDLE`` and hold its memory all the time. A driver that nobody has waited for is a zombie, which still
    has its number, but its children have another parent.
    """
    parent = os.getppid()
    with contextlib.suppress(ProcessLookupError):
        while os.getppid() == parent:
            os.kill(driver, 0)  # sends nothing, and raises where there is no such process
            time.sleep(_LOOK_EVERY)
    os._exit(1)


def _driver_raised_too(problem: BaseException, order: Order) -> bool:
    """Whether the driver's part of ``order`` raised an error as well. Then all ranks are still at the same order.

    Otherwise the driver may be waiting for this rank. So the cause is written where the driver looks for it.
    """
    import torch.distributed as dist

    if started.is_anothers(problem):
        return False
    store, key = started.store_of_ranks(), started.failure_key(dist.get_rank())
    store.set(key, f"{type(problem).__name__}: {problem}")
    until = time.monotonic() + DRIVERS_TURN
    while time.monotonic() < until:
        if store.check([started.raised_key(order.number)]):
            store.delete_key(key)
            return True
        time.sleep(0.05)
    traceback.print_exception(problem)
    return False


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # at once: the other ranks notice by the closed connection
