"""A team of Ray actors, each of which is a rank. The driver is no rank: it holds no weights of its own engines.

Ray places the actors, on this machine or on a cluster, and tells of actors that end. Between the ranks the gradients go
through torch.distributed, as in every team.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import secrets
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from concordant.core.errors import RunFailed, UserError
from concordant.engines.group.orders import Order, Ref, Worker
from concordant.engines.group.team import Team

LOCAL = "local"  # the address that makes the driver start Ray on this machine
PLACED_WITHIN = 120  # seconds for Ray to find room for all actors


class Rank:
    """What a Ray actor runs. Its methods are called one after another, in the order of the driver's calls."""

    def __init__(self) -> None:
        self._worker: Worker | None = None

    def address(self) -> tuple[str, int]:
        """The address of this host, and a port that is free on it: rank 0's store listens there."""
        import ray

        with socket.socket() as free:
            free.bind(("", 0))
            return ray.util.get_node_ip_address(), free.getsockname()[1]

    def join(self, rank: int, size: int, host: str, port: int, seconds: float) -> None:
        """Become one of ``size`` ranks that work together."""
        import torch.distributed as dist

        from concordant.engines.group.collectives import TorchRanks

        timeout = timedelta(seconds=seconds)
        dist.init_process_group("gloo", f"tcp://{host}:{port}", timeout, size, rank)
        self._worker = Worker(TorchRanks(0, timeout))

    def do(self, order: Order) -> Any:
        """Carry out ``order``. An object that later orders name stays here."""
        assert self._worker is not None
        made = self._worker.do(order)
        stays = order.result is not None or order.enters or self._worker.ranks.rank > 0
        return None if stays else made

    def look(self, of: Ref, verb: str, arguments: Sequence[Any]) -> Any:
        assert self._worker is not None
        return self._worker.look(of, verb, *arguments)


@dataclass(frozen=True, slots=True)
class RayResult:
    """The result of rank 0, once all ranks have done the order."""

    team: RayTeam
    pending: Sequence[Any]  # Ray's references, by rank

    def result(self) -> Any:
        self.team.wait(self.pending)
        return self.team.ray.get(self.pending[0])


class RayTeam(Team):
    """``workers`` actors, on the cluster at ``address``; "local" starts Ray on this machine, on loopback alone."""

    def __init__(self, workers: int, timeout: timedelta, address: str) -> None:
        super().__init__()
        self.ray, self.workers = _connected(address), workers
        group = self.ray.util.placement_group([{"CPU": 1}] * workers, strategy="PACK")
        if not group.wait(PLACED_WITHIN):
            free = self.ray.available_resources().get("CPU", 0)
            raise UserError(
                f"Ray found no room for {workers} workers of one CPU each within {PLACED_WITHIN} s, because "
                f"{free:.0f} CPUs are free; lower cluster.workers, or add nodes"
            )
        self._group = group
        strategy = importlib.import_module("ray.util.scheduling_strategies").PlacementGroupSchedulingStrategy
        actor = self.ray.remote(Rank)
        self._actors = [
            actor.options(num_cpus=1, scheduling_strategy=strategy(group, placement_group_bundle_index=i)).remote()
            for i in range(workers)
        ]
        host, port = self.ray.get(self._actors[0].address.remote())
        seconds = timeout.total_seconds()
        self.wait([a.join.remote(rank, workers, host, port, seconds) for rank, a in enumerate(self._actors)])

    def order(self, order: Order) -> RayResult:
        sent = self.ray.put(order)  # once, for all ranks
        return RayResult(self, [actor.do.remote(sent) for actor in self._actors])

    def make_twin(self, function: str, *arguments: Any, **named: Any) -> Any:
        """The driver makes its own object while the ranks make theirs."""
        ref, pending = self._next(), None
        pending = self.order(self._order(function, arguments, named, result=ref.number))
        module, _, name = function.partition(":")
        own = inspect.unwrap(getattr(importlib.import_module(module), name))(*arguments, **named)
        pending.result()
        return self._twin(own, ref)

    def look(self, of: Ref, verb: str, *arguments: Any) -> Any:
        pending = self._actors[0].look.remote(of, verb, [self._sent(a) for a in arguments])
        self.wait([pending])
        return self.ray.get(pending)

    def wait(self, pending: Sequence[Any]) -> None:
        """Wait for all of ``pending``. RunFailed at the first one that fails; the message names the rank."""
        left, rank_of = list(pending), {reference: rank for rank, reference in enumerate(pending)}
        while left:
            done, left = self.ray.wait(left, num_returns=1)
            try:
                self.ray.get(done[0])
            except self.ray.exceptions.RayTaskError as problem:
                cause = problem.cause
                if isinstance(cause, RunFailed | UserError):
                    raise cause from problem
                raise RunFailed(f"worker {rank_of[done[0]]}: {type(cause).__name__}: {cause}") from problem
            except self.ray.exceptions.RayError as problem:
                first = str(problem).splitlines()[0]
                raise RunFailed(f"worker {rank_of[done[0]]} ended: {type(problem).__name__}: {first}") from problem

    def close(self) -> None:
        if not self.ray.is_initialized():  # Ray's own exit came first, and ended the actors
            return
        for actor in self._actors:
            self.ray.kill(actor)
        self.ray.util.remove_placement_group(self._group)


def _connected(address: str) -> Any:
    """The module ``ray``, connected to the cluster."""
    if importlib.util.find_spec("ray") is None:
        raise UserError("cluster.ray needs Ray: pip install 'concordant[ray]', or leave cluster.ray out")
    if address == LOCAL and "ray" not in sys.modules:  # Ray reads these variables when it is imported
        # The token is on no disk, so that other users of this machine cannot send work to the cluster.
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    ray = importlib.import_module("ray")
    if not ray.is_initialized():
        more = {"include_dashboard": False, "_node_ip_address": "127.0.0.1"} if address == LOCAL else {}
        ray.init(address=address, **more)
    return ray
