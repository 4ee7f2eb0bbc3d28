"""What a Ray actor runs: one rank of a team."""

from __future__ import annotations

import faulthandler
import fcntl
import importlib
import os
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from concordant.core.alive import heard_by
from concordant.engines.group import started
from concordant.engines.group.orders import Order, Ref, Worker
from concordant.engines.group.sent_weights import SentWeights
from concordant.runs.identity import code_version

# A rank ends itself after so many times cluster.timeout without a sign of life. The ranks that wait for it in a
# collective give up after cluster.timeout already, so that the rank that hangs is the last one.
PATIENCE = 1.25
STARTED_WITHIN = 300.0  # seconds; an actor imports PyTorch and transformers
_SIOCGIFADDR = 0x8915  # asks Linux for the address of a network interface


@dataclass(frozen=True, slots=True)
class HeldWeights:
    """Weights in Ray's object store. The driver passes them on and never holds a tensor."""

    reference: Any  # Ray's
    version: int
    bytes: int


class Rank:
    """Its methods are called one after another, in the order of the driver's calls."""

    def __init__(self) -> None:
        importlib.import_module("concordant.engines.roles")  # takes long, and orders are watched
        self._worker: Worker | None = None
        self._seconds = 0.0  # cluster.timeout
        self.busy = 0.0  # seconds at orders so far

    def address(self) -> tuple[str, int]:
        """The address of this host, and a port that is free on it: rank 0's store listens there."""
        import ray

        with socket.socket() as free:
            free.bind(("", 0))
            return ray.util.get_node_ip_address(), free.getsockname()[1]

    def version(self) -> str:
        """Of Concordant in this process, which may have another environment than the driver."""
        return code_version()

    def join(self, rank: int, size: int, host: str, port: int, seconds: float) -> None:
        """Become one of ``size`` ranks that work together."""
        import ray
        import torch.distributed as dist

        from concordant.engines.group.collectives import TorchRanks

        if interface := _interface_of(ray.util.get_node_ip_address()):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
            os.environ.setdefault("NCCL_SOCKET_IFNAME", interface)
        self._seconds = seconds
        start = timedelta(seconds=STARTED_WITHIN)
        dist.init_process_group(started.backend(), f"tcp://{host}:{port}", start, size, rank)
        self._worker = Worker(TorchRanks(0, timedelta(seconds=seconds)))

    def do(self, order: Order) -> Any:
        """Carry out ``order``. An object that later orders name stays here, and weights stay in Ray's store."""
        import ray

        assert self._worker is not None
        arguments = [ray.get(a.reference) if isinstance(a, HeldWeights) else a for a in order.arguments]
        with self._watched():
            made = self._worker.do(replace(order, arguments=arguments))
        if order.result is not None or order.enters or self._worker.ranks.rank > 0:
            return None
        if isinstance(made, SentWeights):
            return HeldWeights(ray.put(made), made.version, made.bytes)
        return made

    def look(self, of: Ref, verb: str, arguments: Sequence[Any]) -> Any:
        assert self._worker is not None
        with self._watched():
            return self._worker.look(of, verb, *arguments)

    def seconds_at_work(self) -> tuple[float, float]:
        """Seconds at orders, and the processor's seconds of this process, so far; for ``bench/driver_overhead.py``."""
        return self.busy, time.process_time()

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Show the stack and end this process if the block gives no sign of life for too long."""
        began = time.monotonic()
        alarm = _Alarm(PATIENCE * self._seconds)
        try:
            with heard_by(lambda *_: alarm.postpone()):
                yield
        finally:
            faulthandler.cancel_dump_traceback_later()
            self.busy += time.monotonic() - began


class _Alarm:
    """Ends the process after ``seconds``, unless it is postponed. It needs no turn of the interpreter."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._set()

    def postpone(self) -> None:
        if time.monotonic() - self._began > 0.05 * self._seconds:  # not at every token
            self._set()

    def _set(self) -> None:
        self._began = time.monotonic()
        faulthandler.dump_traceback_later(self._seconds, exit=True)


def _interface_of(address: str) -> str:
    """The network interface with this IPv4 address, such as eth0; "" if none is found."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            try:
                found = fcntl.ioctl(asking, _SIOCGIFADDR, struct.pack("256s", name.encode()))
            except OSError:  # an interface without an IPv4 address
                continue
            if socket.inet_ntoa(found[20:24]) == address:
                return name
    return ""
