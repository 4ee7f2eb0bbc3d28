"""Whose a rater's token is. Every request of a rater needs this, so it is kept in memory."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from concordant.votes.database import Away
from concordant.votes.rows import hash_of

Result = TypeVar("Result")
Rater = tuple[int, str]  # number in the database, name
_REMEMBERED = 5.0  # seconds for which tokens are known without asking; a retired one works so much longer
_MISSED = 1.0  # seconds after which an unknown token is looked up again: another process may have made it
_PATIENCE = 5.0  # seconds for which a request waits for the database


class Raters:
    """All tokens are read at once, in a thread: a database that hangs keeps no other page from being answered."""

    def __init__(self, read: Callable[[], dict[str, Rater]]) -> None:
        """``read`` gives the raters by the hashes of their tokens."""
        self._read = read
        self._known: dict[str, Rater] = {}
        self._since = -math.inf  # when they were read, in the seconds of a monotonic clock
        self._forgotten = 0
        self._thread = ThreadPoolExecutor(1, "raters")
        self._reading: Future[None] | None = None
        self._lock = threading.Lock()

    def rater_with(self, token: str) -> Rater | None:
        """Who has this token; None if nobody has it, as far as is known."""
        return self._known.get(hash_of(token))

    async def learn(self, token: str) -> None:
        """Read the tokens again if what is known is too old for this one. Raises ``Away``."""
        for _ in range(2):  # a reading that began before the owner changed a token is not enough
            if self._is_known(token):
                return
            with self._lock:  # many requests at once wait for one reading
                if self._reading is None or self._reading.done():
                    self._reading = self._thread.submit(self._read_all)
                reading = self._reading
            await in_time(reading, _PATIENCE)

    def forget(self) -> None:
        """Read the tokens again before the next request: the owner has added or retired one."""
        self._forgotten += 1
        self._since = -math.inf

    def _is_known(self, token: str) -> bool:
        """Whether the tokens are new enough to say whose this one is."""
        age = time.monotonic() - self._since
        return age < _MISSED or (age < _REMEMBERED and self.rater_with(token) is not None)

    def _read_all(self) -> None:
        started, forgotten = time.monotonic(), self._forgotten
        self._known = self._read()
        if forgotten == self._forgotten:
            self._since = started


async def in_time(work: Future[Result], seconds: float) -> Result:
    """The result of a thread's work. Raises ``Away`` after ``seconds``; the work goes on then."""
    try:
        return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(work)), seconds)
    except TimeoutError:
        raise Away("the database did not answer in time") from None
