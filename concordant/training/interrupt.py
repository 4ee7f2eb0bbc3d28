"""Handles Ctrl-C and SIGTERM.

In the training loop the first signal asks the loop to finish its step and save. Elsewhere the first signal ends the
command cleanly. The second signal ends the process at once.

Two signals that come together count as one: a terminal sends Ctrl-C to every process, and a wrapper that started this
process passes its own signal on.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

_CURSOR = b"\x1b[?25h"  # what shows a terminal's cursor, which live bars hide
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
TOGETHER = 0.5  # seconds within which a second signal is the first one's twin
_late = False  # whether a request came in the last step of a loop; global, because signals belong to the process


class StopRequest:
    """A context manager whose ``requested`` becomes True at the first signal."""

    def __init__(self) -> None:
        self.requested = False
        self._first = 0.0  # when the first signal came
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        self._before = _handle_with(self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        global _late
        for number, handler in self._before.items():
            signal.signal(number, handler)
        _late = self.requested and kind is None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            _end_unless_twin(self._first)
            return
        self.requested, self._first = True, time.monotonic()
        os.write(2, b"\nfinishing this step, then saving; once more to end at once\n")  # print is not re-entrant


def late_request() -> bool:
    """Whether the last loop was asked to stop in its last step. The call resets the answer to False."""
    global _late
    was, _late = _late, False
    return was


@contextmanager
def interruptible() -> Iterator[None]:
    """Inside the block, the first Ctrl-C or SIGTERM raises KeyboardInterrupt; the second ends the process at once."""
    first: list[float] = []  # when the first signal came

    def handle(number: int, frame: FrameType | None) -> None:
        if first:
            _end_unless_twin(first[0])
            return
        first.append(time.monotonic())
        raise KeyboardInterrupt

    before = _handle_with(handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_unless_twin(first: float) -> None:
    """The end of the process at once, with the cursor back. Nothing is called that could wait for a lock."""
    if time.monotonic() - first < TOGETHER:
        return
    if os.isatty(2):
        os.write(2, _CURSOR)
    os.write(2, b"\nended at once; what was saved before is whole\n")
    os._exit(1)


def _handle_with(handler: Callable[[int, FrameType | None], None]) -> dict[signal.Signals, Any]:
    """Set ``handler`` and return the earlier handlers. Outside the main thread, which gets all signals, do nothing."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.signal(number, handler) for number in _SIGNALS}
