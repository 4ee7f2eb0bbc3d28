"""Network addresses: which ones only this machine can reach, and listening at one."""

from __future__ import annotations

import ipaddress
import socket

from concordant.core.errors import UserError


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine can reach ``host``."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def in_url(host: str) -> str:
    """``host`` as an address of the web names it: an IPv6 address stands in brackets."""
    return f"[{host}]" if ":" in host else host


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens at ``host`` and ``port``; port 0 takes a free one. Raises UserError if it cannot."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) and problem.strerror else problem
        raise UserError(f"cannot listen at {host} port {port}: {reason}; --port 0 takes a free port") from None
