"""A time limit for code that somebody else wrote: a chat template, a reward function, a tokenizer's rules."""

from __future__ import annotations

import ctypes
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TypeVar

from concordant.core.errors import UserError

T = TypeVar("T")


@contextmanager
def at_most(seconds: float, complaint: str) -> Iterator[None]:
    """Raise UserError with the message ``complaint`` if the block runs longer than ``seconds``.

    In the main thread of a Unix system an alarm also ends a wait, such as a sleep or a read from a server. Elsewhere,
    and where the process already uses the alarm, only Python code is stopped, between two instructions. A single call
    into compiled code is stopped nowhere; ``awaited_at_most`` stops waiting for it.
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


def awaited_at_most(seconds: float, complaint: str, call: Callable[[], T]) -> T:
    """The result of ``call``, which may be compiled code. Raises UserError with ``complaint`` if it takes too long.

    The call runs in a thread of its own, because nothing can end compiled code from outside. After an error that thread
    goes on, without a result, until it is finished or the process ends; it does not keep the process from ending, but
    it keeps processors busy. The compiled code has to give up Python's lock while it works, as tokenizers does when it
    makes ids. An error of ``call`` is raised here.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(call())
        except BaseException as error:  # PanicException of Rust code too
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    try:
        thread.start()
    except RuntimeError:  # no memory for another thread: the call then runs without a limit
        return call()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise UserError(complaint)
    return results[0]


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
        signal.setitimer(signal.ITIMER_REAL, 0)  # again: a signal may have raised an error before the first time
        signal.signal(signal.SIGALRM, before if before is not None else signal.SIG_DFL)


@contextmanager
def _interrupt(seconds: float, end: type[BaseException]) -> Iterator[None]:
    thread, lock, finished = ctypes.c_ulong(threading.get_ident()), threading.Lock(), False
    raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc

    def stop() -> None:
        with lock:
            if not finished:
                raise_in(thread, ctypes.py_object(end))

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    with suppress(RuntimeError):  # no memory for another thread: the block then runs without a limit
        timer.start()
    try:
        yield
    finally:
        finished = True  # first of all: a signal, such as Ctrl-C, may raise an error in any of the next calls
        with lock:  # ``stop`` is not at work, and will do nothing
            raise_in(thread, None)  # takes back what has not been raised yet, which would be raised after the block
        timer.cancel()
