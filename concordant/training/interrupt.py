"""Ctrl-C and SIGTERM: the first asks the loop to finish its step and save, the second ends the process at once."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from concordant.training.progress import Display

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """While the context is open, ``requested`` becomes True at the first signal."""

    def __init__(self, display: Display) -> None:
        self.requested = False
        self._display = display
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # Python gives signals to no other thread
            self._before = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            self._display.close()  # the cursor back
            os._exit(1)
        self.requested = True
        os.write(2, b"\nfinishing this step, then saving; once more to end at once\n")  # print is not re-entrant
