"""How this process was started: alone, or as one of the ranks of torchrun, srun or a driver. Imports no torch."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from concordant.core.errors import RunFailed, UserError

IDLE = timedelta(days=365)  # a helper waits so long for the driver and for its next order
LOOPBACK = "lo"  # the network interface of a team on one machine
# Environment variables that a driver gives the helpers that it starts itself.
STORE, TIMEOUT, DRIVER = "CONCORDANT_STORE", "CONCORDANT_TIMEOUT", "CONCORDANT_DRIVER"
_TORCHRUN = "RANK", "WORLD_SIZE"
_SRUN = "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"
_MEETING = "MASTER_ADDR", "MASTER_PORT"
_PORTS = range(10_000, 30_000)  # below those that Linux gives to connections of its own


def world() -> tuple[int, int]:
    """(rank, number of ranks), from the environment that torchrun, srun or a driver sets; (0, 1) if none of them did.

    Of Slurm only the variables of a step count, which srun sets. Those of a job, such as ``SLURM_NTASKS``, also stand
    in the script of a job and in a shell that salloc opened, where one process runs.

    Raises:
        UserError: a part of such an environment is missing or makes no sense.
    """
    environment = os.environ
    if any(name in environment for name in _TORCHRUN):
        rank, size = _place(environment, *_TORCHRUN, "torchrun")
        lacking = [name for name in _MEETING if name not in environment]
        if size > 1 and lacking and STORE not in environment:
            raise UserError(
                f"WORLD_SIZE is {size} and there is no {' and no '.join(lacking)}, so the ranks cannot meet; "
                "start them with torchrun, which sets all of these, or unset RANK and WORLD_SIZE"
            )
        return rank, size
    if _SRUN[1] in environment or environment.get(_SRUN[0], "0") != "0":
        return _place(environment, *_SRUN, "srun")
    return 0, 1


def _place(environment: Mapping[str, str], rank_name: str, size_name: str, starter: str) -> tuple[int, int]:
    """The rank and the number of ranks that ``starter`` set under these names."""
    for name, other in ((rank_name, size_name), (size_name, rank_name)):
        if name not in environment:
            raise UserError(
                f"{other} is {environment[other]} in the environment, and {name} is not set; {starter} sets both. "
                f"Start with {starter}, or unset {other} for a run in one process"
            )
    given = f"{rank_name} is {environment[rank_name]} and {size_name} is {environment[size_name]}"
    try:
        rank, size = int(environment[rank_name]), int(environment[size_name])
    except ValueError:
        raise UserError(f"{given}; expected whole numbers, as {starter} sets them") from None
    if not 0 <= rank < size:
        raise UserError(f"{given}; expected a rank from 0 to {size_name} - 1, as {starter} sets it")
    return rank, size


def number_on_host() -> int:
    """The number of this rank among those of its machine; 0 for a run of one process and for a worker of Ray."""
    if world()[1] == 1:
        return 0
    names = ("LOCAL_RANK",) if _TORCHRUN[0] in os.environ else ("SLURM_LOCALID",)
    return next((int(os.environ[name]) for name in names if name in os.environ), 0)


def meeting_place() -> tuple[str, int]:
    """The host and the port at which the ranks meet.

    Under srun they are taken from the step where ``MASTER_ADDR`` or ``MASTER_PORT`` is not set. Rank 0 is on the first
    host of a step. The host that srun was called on may be another one, such as a login host.

    Raises:
        UserError: srun did not say on which hosts the step runs, or the port is no number.
    """
    host, port = (os.environ.get(name, "") for name in _MEETING)
    if not host:
        hosts = os.environ.get("SLURM_STEP_NODELIST", "")
        if not hosts:
            raise UserError(
                "SLURM_STEP_NODELIST is not set, so the ranks of srun cannot find rank 0; set MASTER_ADDR to its host"
            )
        host = first_host(hosts)
    if not port:
        job, step = (re.sub(r"\D", "", os.environ.get(name, "")) or "0" for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
        port = str(_PORTS[(int(job) * 101 + int(step)) % len(_PORTS)])
    if not port.isdigit():
        raise UserError(f"MASTER_PORT is {port}; expected the number of a port that is free on {host}")
    return host, int(port)


def first_host(hosts: str) -> str:
    """The first host of Slurm's list, such as ``node[003-007,011],gpu1``: node003."""
    first = re.split(r",(?![^\[]*\])", hosts)[0]
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", first)


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
    words = (
        "gloo",
        "ncclRemoteError",
        "communicator was aborted",
        "onnection closed",
        "onnection reset",
        "imed out",
        "pair closure",
    )
    return isinstance(problem, RuntimeError) and any(word in str(problem) for word in words)


def store_of_ranks() -> Any:
    """The store that all ranks of the initialised process group share."""
    import torch.distributed as dist

    return dist.distributed_c10d._get_default_store()


def backend() -> str:
    """The backend of torch.distributed: gloo between CPUs, and NCCL between GPUs where there are any."""
    import torch
    import torch.distributed as dist

    return "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"


def initialize() -> None:
    """Initialise torch.distributed from the environment. A helper waits here until the driver comes.

    RunFailed if the port at which the ranks meet is taken.
    """
    import torch.distributed as dist

    rank, size = world()
    if STORE in os.environ:
        store: dist.Store = dist.FileStore(os.environ[STORE], size)
        store.set(here_key(rank), "")
        dist.init_process_group(backend(), store=store, rank=rank, world_size=size, timeout=IDLE)
        return
    host, port = meeting_place()
    os.environ |= {"MASTER_ADDR": host, "MASTER_PORT": str(port)}
    try:
        dist.init_process_group(backend(), init_method="env://", rank=rank, world_size=size, timeout=IDLE)
    except dist.DistNetworkError as problem:
        raise RunFailed(
            f"the ranks cannot meet at {host}, port {port}: {str(problem).splitlines()[0]}; set MASTER_PORT to a port "
            "that is free there, and MASTER_ADDR to the host of rank 0"
        ) from problem
