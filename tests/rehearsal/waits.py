"""Counts the points where a processor waits for the GPU, and the lines of the package that cause them."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = str(ROOT / "concordant")


class Waits:
    """How often each line of the package waited, and for what."""

    def __init__(self) -> None:
        self.lines: Counter[tuple[str, str]] = Counter()  # (file:line, what the wait was for)

    def add(self, what: str) -> None:
        self.lines[_place(), what] += 1

    @property
    def total(self) -> int:
        return sum(self.lines.values())

    def table(self) -> str:
        """One line for each place, most waits first."""
        rows = [f"{count:6}  {place}  {what}" for (place, what), count in self.lines.most_common()]
        return "\n".join([f"{self.total:6}  in all", *rows])


_waits: ContextVar[Waits | None] = ContextVar("the waits of the present rehearsal", default=None)


def wait(what: str) -> None:
    """Count one wait of the processor for the GPU."""
    if (waits := _waits.get()) is not None:
        waits.add(what)


@contextmanager
def counting(waits: Waits) -> Iterator[Waits]:
    """Inside the block, waits are added to ``waits``, and not to those of an outer block."""
    token = _waits.set(waits)
    try:
        yield waits
    finally:
        _waits.reset(token)


def _place() -> str:
    """The innermost line of the package on the stack, or else of the tests."""
    frame = sys._getframe(2)
    outside = ""
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(PACKAGE):
            return f"{Path(name).relative_to(ROOT)}:{frame.f_lineno}"
        if not outside and name.startswith(str(ROOT)) and "/tests/rehearsal/" not in name:
            outside = f"{Path(name).relative_to(ROOT)}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return outside or "elsewhere"
