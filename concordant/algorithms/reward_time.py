"""A time limit for one call of a reward function."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from concordant.core.errors import UserError
from concordant.core.time_limit import at_most


class _TimeIsUp(BaseException):
    """Not an Exception, so that the function does not catch it with its own errors."""


def too_long(seconds: float) -> str:
    return f"the call takes more than reward_timeout={seconds:g} s"


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raises UserError where the block runs longer than ``seconds``; 0 is no limit.

    In the main thread of a Unix system an alarm also ends a wait, such as a sleep or a read from a server. Elsewhere,
    and where the process already uses the alarm, only Python code is stopped. Compiled code is stopped nowhere.
    """
    complaint = too_long(seconds)
    if not seconds:
        yield
    elif _alarm_is_free():
        with _alarm(seconds, complaint):
            yield
    else:
        with at_most(seconds, complaint):
            yield


def _alarm_is_free() -> bool:
    is_main = threading.current_thread() is threading.main_thread()
    return is_main and hasattr(signal, "setitimer") and signal.getitimer(signal.ITIMER_REAL)[0] == 0


@contextmanager
def _alarm(seconds: float, complaint: str) -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise _TimeIsUp

    before = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except _TimeIsUp:
        raise UserError(complaint) from None
    finally:
        signal.signal(signal.SIGALRM, before if before is not None else signal.SIG_DFL)
