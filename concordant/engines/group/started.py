"""How this process was started: alone, or as one of the ranks of torchrun, srun or a driver. Imports no torch."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

IDLE = timedelta(days=365)  # a helper waits so long for the driver and for its next order
LOOPBACK = "lo"  # the network interface of a team on one machine
# Environment variables that a driver gives the helpers that it starts itself.
STORE, TIMEOUT, DRIVER = "CONCORDANT_STORE", "CONCORDANT_TIMEOUT", "CONCORDANT_DRIVER"


def world() -> tuple[int, int]:
    """(rank, number of ranks), from the environment that torchrun, srun or a driver sets; (0, 1) if none of them did.

    Under srun, PyTorch needs ``MASTER_ADDR`` and ``MASTER_PORT`` too. Without them the tasks are runs of their own.
    """
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if "SLURM_PROCID" in os.environ and "MASTER_ADDR" in os.environ:
        return int(os.environ["SLURM_PROCID"]), int(os.environ.get("SLURM_NTASKS", "1"))
    return 0, 1


def is_helper() -> bool:
    """Whether this process is a rank that carries out the orders of another process."""
    return world()[0] > 0


def here_key(rank: int) -> str:
    """The key in the store under which a helper says that it runs."""
    return f"here/{rank}"


def failure_key(rank: int) -> str:
    """The key in the store under which a rank writes why it failed."""
    return f"failed/{rank}"


def raised_key(order: int) -> str:
    """The key in the store under which the driver says that its own part of an order raised an error."""
    return f"raised/{order}"


def is_anothers(problem: BaseException) -> bool:
    """Whether an error only says that another rank is gone or does not answer."""
    words = ("gloo", "onnection closed", "onnection reset", "imed out", "pair closure")
    return isinstance(problem, RuntimeError) and any(word in str(problem) for word in words)


def store_of_ranks() -> Any:
    """The store that all ranks of the initialised process group share."""
    import torch.distributed as dist

    return dist.distributed_c10d._get_default_store()


def initialize() -> None:
    """Initialise torch.distributed from the environment. A helper waits here until the driver comes."""
    import torch.distributed as dist

    rank, size = world()
    if STORE in os.environ:
        store = dist.FileStore(os.environ[STORE], size)
        store.set(here_key(rank), "")
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=IDLE)
    else:
        dist.init_process_group("gloo", init_method="env://", rank=rank, world_size=size, timeout=IDLE)
