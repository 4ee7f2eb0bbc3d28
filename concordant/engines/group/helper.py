"""A helper: a rank other than the driver. It carries out orders until the driver ends."""

from __future__ import annotations

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
USUAL_TIMEOUT = 600.0  # seconds; as in ClusterConfig, for helpers that torchrun or srun started


def main() -> int:
    """Serve the driver. Returns the exit code: 0 if the driver ended, 1 if an order failed here."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the driver decides how a run stops
        signal.signal(number, signal.SIG_IGN)
    _end_with(int(os.environ.get(started.DRIVER, 0)))
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
    """End this process soon after the process ``driver``, its parent; 0 for helpers that others started.

    Ranks that have met notice a driver that is gone by its closed connection. Until then there is no connection, and a
    helper would wait for a driver that was killed while the others were still starting.
    """

    def watch() -> None:
        while os.getppid() == driver:
            time.sleep(1.0)
        os._exit(0)

    if driver:
        threading.Thread(target=watch, daemon=True).start()


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
