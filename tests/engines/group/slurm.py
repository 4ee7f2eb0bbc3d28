"""A command of two ranks as srun or torchrun starts it: ``python -m tests.engines.group.slurm STARTER ARGUMENTS``.

Both processes are given the same arguments of ``concordant``, and the environment of the starter. Neither Slurm nor
torchrun is needed.
"""

from __future__ import annotations

import os
import socket
import sys

from concordant.cli import main


def environment(starter: str, rank: int, port: int) -> dict[str, str]:
    """What the starter sets for one of two tasks on this host. srun says nothing of a port, and names the host that it
    was called on, which is another one here."""
    if starter == "torchrun":
        place = {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
        return place | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return {
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": str(rank),
        "SLURM_NTASKS": "2",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_LAUNCH_NODE_IPADDR": "192.0.2.7",
        "SLURM_JOB_ID": str(os.getpid() if rank == 0 else os.getppid()),
        "SLURM_STEP_ID": "0",
    }


def task(rank: int, port: int) -> int:
    os.environ |= environment(sys.argv[1], rank, port) | {"GLOO_SOCKET_IFNAME": "lo"}
    return main(sys.argv[2:])


if __name__ == "__main__":
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    helper = os.fork()
    if helper == 0:
        os._exit(task(1, port))
    code = task(0, port)
    sys.exit(code or os.waitstatus_to_exitcode(os.waitpid(helper, 0)[1]))
