"""Connects this process to Ray, or starts Ray on this machine."""

from __future__ import annotations

import importlib
import importlib.util
import os
import secrets
import sys
from typing import Any

from concordant.core.errors import UserError

LOCAL = "local"  # the address that makes the driver start Ray on this machine

_started = 0  # CPUs of the Ray that this process started; 0 if it started none


def connected(address: str, workers: int) -> Any:
    """The module ``ray``, connected to the cluster at ``address``.

    A Ray that is started here has room for ``workers``, however many cores the machine has: as many processes as the
    user asks for share them, as without Ray.
    """
    global _started
    if importlib.util.find_spec("ray") is None:
        raise UserError("cluster.ray needs Ray: pip install 'concordant[ray]', or leave cluster.ray out")
    if address == LOCAL and "ray" not in sys.modules:  # Ray reads these variables when it is imported
        # The token is on no disk, so that other users of this machine cannot send work to the cluster. Ray gives its
        # workers the low priority 15 unless it is told otherwise, and here they are the run itself.
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        os.environ.setdefault("RAY_worker_niceness", "0")
    ray = importlib.import_module("ray")
    if 0 < _started < workers and ray.is_initialized():
        ray.shutdown()
    if not ray.is_initialized():
        more: dict[str, Any] = {}
        if address == LOCAL:
            _started = max(workers, os.cpu_count() or 1)
            more = {"include_dashboard": False, "_node_ip_address": "127.0.0.1", "num_cpus": _started}
        ray.init(address=address, **more)
    return ray
