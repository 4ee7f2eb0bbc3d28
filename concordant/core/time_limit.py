"""A time limit for Python code that somebody else wrote: a chat template, a reward function."""

from __future__ import annotations

import ctypes
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from concordant.core.errors import UserError


@contextmanager
def at_most(seconds: float, complaint: str) -> Iterator[None]:
    """Raise UserError with the message ``complaint`` if the block runs longer than ``seconds``.

    In the main thread of a Unix system an alarm also ends a wait, such as a sleep or a read from a server. Elsewhere,
    and where the process already uses the alarm, only Python code is stopped, between two instructions. A single call
    into compiled code is stopped nowhere.
    """

    class TimeIsUp(BaseException):
        """Not an ``Exception``, so that the limited code does not catch it; a class of this call alone, so that a
        limit inside another one does not take the other's end for its own."""

    limit = _alarm if _alarm_is_free() else _interrupt
    try:
        with limit(seconds, TimeIsUp):
            yield
    except TimeIsUp:
        raise UserError(complaint) from None


def _alarm_is_free() -> bool:
    is_main = threading.current_thread() is threading.main_thread()
    return is_main and hasattr(signal, "setitimer") and signal.getitimer(signal.ITIMER_REAL)[0] == 0


@contextmanager
def _alarm(seconds: float, end: type[BaseException]) -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise end

    before = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.signal(signal.SIGALRM, before if before is not None else signal.SIG_DFL)


@contextmanager
def _interrupt(seconds: float, end: type[BaseException]) -> Iterator[None]:
    thread, lock, finished = threading.get_ident(), threading.Lock(), False

    def stop() -> None:
        with lock:
            if not finished:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(end))

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    with suppress(RuntimeError):  # no memory for another thread: the block then runs without a limit
        timer.start()
    try:
        yield
    finally:
        with lock:
            finished = True
        timer.cancel()
