"""Handles Ctrl-C and SIGTERM.

In the training loop the first signal asks the loop to finish its step and save. Elsewhere the first signal ends the
command cleanly. The second signal ends the process at once.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from concordant.training.progress import Display

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_late = False  # whether a request came in the last step of a loop; global, because signals belong to the process


class StopRequest:
    """A context manager whose ``requested`` becomes True at the first signal."""

    def __init__(self, display: Display) -> None:
        self.requested = False
        self._display = display
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
            self._display.close()  # shows the cursor again
            os._exit(1)
        self.requested = True
        os.write(2, b"\nfinishing this step, then saving; Ctrl-C again ends at once\n")  # print is not re-entrant


def late_request() -> bool:
    """Whether the last loop was asked to stop in its last step. The call resets the answer to False."""
    global _late
    was, _late = _late, False
    return was


@contextmanager
def interruptible() -> Iterator[None]:
    """Inside the block, the first Ctrl-C or SIGTERM raises KeyboardInterrupt; the second ends the process at once."""
    seen: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if seen:
            os._exit(1)
        seen.append(number)
        raise KeyboardInterrupt

    before = _handle_with(handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _handle_with(handler: Callable[[int, FrameType | None], None]) -> dict[signal.Signals, Any]:
    """Set ``handler`` and return the earlier handlers. Outside the main thread, which gets all signals, do nothing."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.signal(number, handler) for number in _SIGNALS}
