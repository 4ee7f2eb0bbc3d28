"""A time limit for Python code that somebody else wrote."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from concordant.core.errors import UserError


class _TimeIsUp(BaseException):
    """Not an ``Exception``, so that ``except Exception`` in the limited code does not catch it."""


@contextmanager
def at_most(seconds: float, complaint: str) -> Iterator[None]:
    """Raise UserError with the message ``complaint`` if the block runs longer than ``seconds``.

    The limit works in every thread and on every system. It stops Python code between two instructions and cannot stop
    a single call into compiled code.
    """
    thread, lock, finished = threading.get_ident(), threading.Lock(), False

    def stop() -> None:
        with lock:
            if not finished:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(_TimeIsUp))

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    try:
        with suppress(RuntimeError):  # no memory for another thread: the block then runs without a limit
            timer.start()
        try:
            yield
        finally:
            with lock:
                finished = True
            timer.cancel()
    except _TimeIsUp:
        raise UserError(complaint) from None
