"""A helper: a rank other than the driver. It carries out orders until the driver ends."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import traceback
from datetime import timedelta

from concordant.engines.group import started

USUAL_TIMEOUT = 600.0  # seconds; as in ClusterConfig, for helpers that torchrun or srun started


def main() -> int:
    """Serve the driver. Returns the exit code: 0 if the driver ended, 1 if an order failed here."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the driver decides how a run stops
        signal.signal(number, signal.SIG_IGN)
    seconds = float(os.environ.get(started.TIMEOUT, USUAL_TIMEOUT))
    started.initialize(timedelta(seconds=seconds))
    import torch.distributed as dist

    from concordant.engines.group.collectives import TorchRanks
    from concordant.engines.group.orders import Worker
    from concordant.engines.group.torch_team import Channel
    from concordant.kernels.allocator import freed_memory_kept

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
                if not _is_anothers(problem):
                    traceback.print_exc()
                    store = dist.distributed_c10d._get_default_store()
                    store.set(started.failure_key(dist.get_rank()), f"{type(problem).__name__}: {problem}")
                return 1
            finally:
                faulthandler.cancel_dump_traceback_later()


def _is_anothers(problem: BaseException) -> bool:
    """Whether the error only says that another rank is gone or does not answer."""
    return isinstance(problem, RuntimeError) and any(
        words in str(problem) for words in ("gloo", "onnection closed", "onnection reset", "imed out")
    )


if __name__ == "__main__":
    sys.stdout.flush()
    code = main()
    sys.stderr.flush()
    os._exit(code)  # at once: the other ranks notice by the closed connection
