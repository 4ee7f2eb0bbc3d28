"""A team over torch.distributed: the driver is rank 0, and the other ranks are its helpers.

The helpers are started by torchrun or srun, or on this machine by the driver itself. The driver sends its orders by a
broadcast. A helper that fails writes the cause into the store of the process group and ends; then the collective of
every other rank fails too, and the driver looks into the store.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from concordant.core.errors import RunFailed, UserError
from concordant.engines.group import started
from concordant.engines.group.collectives import TorchRanks
from concordant.engines.group.orders import Order, Ref, Worker
from concordant.engines.group.team import Team
from concordant.engines.memory import available_memory
from concordant.engines.protocol import Done

HELPER = "concordant.engines.group.helper"  # the module that a helper runs
STARTED_WITHIN = 300.0  # seconds; a helper imports PyTorch and transformers
_LEAST = 128 * 2**20  # bytes that a helper has when it has loaded PyTorch and no model yet; measured, rounded down
_LOOK_FOR = 5.0  # seconds in which a rank that failed writes the cause


class Channel:
    """How orders come from the driver to the helpers. Every rank makes one, in the same order as its ``TorchRanks``."""

    def __init__(self) -> None:
        self._group = dist.new_group(backend="gloo", timeout=started.IDLE)

    def send(self, order: Order | None) -> None:
        dist.broadcast_object_list([order], src=0, group=self._group)

    def receive(self) -> Order | None:
        """The next order; None at the end."""
        box: list[Any] = [None]
        dist.broadcast_object_list(box, src=0, group=self._group)
        return box[0]


class TorchTeam(Team):
    """The driver's side.

    ``helpers`` are the processes that the driver started itself, by rank, and ``folder`` is where they met it.
    """

    def __init__(
        self,
        timeout: timedelta,
        helpers: Mapping[int, subprocess.Popen[bytes]],
        folder: tempfile.TemporaryDirectory[str] | None = None,
    ) -> None:
        super().__init__()
        self._folder = folder
        self._store, self._timeout, self._helpers = started.store_of_ranks(), timeout, helpers
        self._orders = 0
        self._has_failed = False  # a worker raised, ended or hangs
        with self._failures_named():
            ranks = TorchRanks(0, timeout)
            self._channel = Channel()
        self.workers, self._worker = ranks.size, Worker(ranks)

    def order(self, order: Order) -> Done[Any]:
        self._orders += 1
        order = replace(order, number=self._orders)
        with self._failures_named():
            self._channel.send(order)
            try:
                return Done(self._worker.do(order))
            except Exception as problem:
                if not started.is_anothers(problem):
                    self._store.set(started.raised_key(order.number), "")  # a helper that raised too goes on
                raise

    def make_twin(self, function: str, *arguments: Any, **named: Any) -> Any:
        """The driver is a rank, so that its own object is the twin."""
        ref = self.make(function, *arguments, **named)
        return self._twin(self._worker.objects[ref.number], ref)

    def look(self, of: Ref, verb: str, *arguments: Any) -> Any:
        return self._worker.look(of, verb, *arguments)

    def close(self) -> None:
        if not self._has_failed:  # a rank that hangs hears nothing, and orders wait for their hearers without limit
            with contextlib.suppress(Exception):
                self._channel.send(None)
        with contextlib.suppress(Exception):  # or gloo's threads end this process with SIGABRT when Python exits
            dist.destroy_process_group()
        for helper in self._helpers.values():
            try:
                helper.wait(timeout=5)
            except subprocess.TimeoutExpired:
                helper.kill()
        if self._folder is not None:
            self._folder.cleanup()

    @contextmanager
    def _failures_named(self) -> Iterator[None]:
        """An error of this rank passes. If another rank failed, ``RunFailed`` names it and the cause."""
        try:
            yield
        except RuntimeError as problem:
            if not started.is_anothers(problem):
                raise
            self._has_failed = True
            silent = f"a worker did not answer within {self._timeout.total_seconds():.0f} s (cluster.timeout)"
            raise RunFailed(self._failure() or f"{silent}; the stacks of the workers are above") from problem

    def _failure(self) -> str:
        """Which helper failed, and why; "" if none is known to have failed."""
        until = time.monotonic() + _LOOK_FOR
        while time.monotonic() < until:
            for rank in range(1, dist.get_world_size()):
                if self._store.check([started.failure_key(rank)]):
                    return f"worker {rank}: {self._store.get(started.failure_key(rank)).decode()}"
            for rank, helper in self._helpers.items():
                if helper.poll() not in (None, 0):
                    return f"worker {rank} ended: {_way(helper.returncode)}"
            time.sleep(0.05)
        return ""


def _way(code: int) -> str:
    return f"killed by signal {-code}" if code < 0 else f"exit code {code}"


def start_here(workers: int, timeout: timedelta) -> TorchTeam:
    """Start ``workers - 1`` helpers on this machine. This process becomes rank 0.

    Raises UserError, before any of them starts, for more helpers than fit into the memory that is free.
    """
    _refuse_too_many(workers)
    folder = tempfile.TemporaryDirectory(prefix="concordant-")  # private, and on the disk, so that no port is opened
    file = os.path.join(folder.name, "store")
    store = dist.FileStore(file, workers)
    helpers = {}
    for rank in range(1, workers):
        where = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(workers), started.STORE: file}
        where |= {started.TIMEOUT: str(timeout.total_seconds()), "GLOO_SOCKET_IFNAME": started.LOOPBACK}
        where[started.DRIVER] = str(os.getpid())
        command = [sys.executable, "-m", HELPER]
        helpers[rank] = subprocess.Popen(command, env=os.environ | where, stdin=subprocess.DEVNULL)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", started.LOOPBACK)
    try:
        _wait_for(helpers, store)
        dist.init_process_group(started.backend(), store=store, rank=0, world_size=workers, timeout=started.IDLE)
        return TorchTeam(timeout, helpers, folder)
    except BaseException:
        for helper in helpers.values():
            helper.kill()
        folder.cleanup()
        raise


def _refuse_too_many(workers: int) -> None:
    """A mistyped number must not fill the machine with processes until the system ends somebody else's."""
    fitting = 1 + available_memory() // _LEAST
    if workers > fitting:
        raise UserError(
            f"{workers:,} workers were asked for, and the memory that is free here holds at most {fitting:,}, even "
            "without a model; lower cluster.workers, or cluster.tensor or cluster.pipeline where these are set"
        )


def _wait_for(helpers: Mapping[int, subprocess.Popen[bytes]], store: dist.Store) -> None:
    """Wait until every helper runs. RunFailed if one ends, or if they need longer than ``STARTED_WITHIN``."""
    until = time.monotonic() + STARTED_WITHIN
    while not store.check([started.here_key(rank) for rank in helpers]):
        for rank, helper in helpers.items():
            if helper.poll() is not None:
                raise RunFailed(f"worker {rank} did not start: {_way(helper.returncode)}; its error is above")
        if time.monotonic() > until:
            raise RunFailed(f"the workers did not start within {STARTED_WITHIN:.0f} s; is this machine overloaded?")
        time.sleep(0.05)


def join(timeout: timedelta) -> TorchTeam:
    """Take the ranks that torchrun or srun started. This process is rank 0."""
    started.initialize()
    return TorchTeam(timeout, {})
