"""Signs of life from within long work. Engines say how far they are; progress bars and status.json listen.

A sign comes from the work itself and not from a clock, so a process that hangs gives none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Listener = Callable[[str, int, int], None]  # (what is counted, how many are done, how many there are)

_listeners: ContextVar[tuple[Listener, ...]] = ContextVar("listeners", default=())


def sign_of_life(counted: str, done: int, total: int) -> None:
    """Tell all listeners that ``done`` of ``total`` are done, such as 3 of 12 micro-batches. A call costs little."""
    for listen in _listeners.get():
        listen(counted, done, total)


@contextmanager
def heard_by(listen: Listener) -> Iterator[None]:
    """Inside the block, ``listen`` gets every sign of life. It must return at once."""
    token = _listeners.set((*_listeners.get(), listen))
    try:
        yield
    finally:
        _listeners.reset(token)
