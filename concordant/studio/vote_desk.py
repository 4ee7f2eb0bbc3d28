"""The vote database of an open studio. It is opened when somebody first needs it, and says whose a token is."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from fastapi import HTTPException, Request

from concordant.core.errors import UserError
from concordant.studio.access import Refusal
from concordant.studio.raters import Rater, Raters, in_time
from concordant.votes.database import POOL, Away
from concordant.votes.rows import Arena
from concordant.votes.store import Store
from concordant.votes.summary import summary

AWAY = "The database of votes does not answer just now. Nothing is lost; send the same vote again in a moment."
OWNER = "owner"  # the rater as whom the studio's owner votes
# Threads that work for raters at a file, which has one writer at a time: writers that wait in a queue are served in
# turn, while those that wait for SQLite's lock try again after a sleep. At a server every connection has a thread.
_WORKERS_OF_FILE = 1
_PATIENCE = 30.0  # seconds for which a rater's request waits for the database

Result = TypeVar("Result")


class VoteDesk:
    def __init__(self, place: str) -> None:
        self.place = place
        self._store: Store | None = None
        self._opening, self._summing = threading.Lock(), threading.Lock()
        self.raters = Raters(lambda: self.store().tokens() if self.exists else {})
        self._workers = ThreadPoolExecutor(POOL if "://" in place else _WORKERS_OF_FILE, "votes")
        self._owner: Rater | None = None
        self._arenas: dict[str, Arena] = {}
        self._summaries: dict[str, tuple[dict[str, int], dict[str, Any]]] = {}

    @property
    def exists(self) -> bool:
        """Whether there may be votes: looking at pages makes no empty file."""
        return self._store is not None or "://" in self.place or Path(self.place).expanduser().is_file()

    def store(self) -> Store:
        """The open database, made if there is none. Raises UserError if it cannot be opened."""
        with self._opening:
            if self._store is None:
                self._store = Store(self.place)
            return self._store

    async def work(self, do: Callable[[], Result]) -> Result:
        """The result of what ``do`` reads or changes in the database, in a thread of the desk. Raises ``Away``."""
        return await in_time(self._workers.submit(do), _PATIENCE)

    async def learn(self, token: str) -> None:
        """Find out whose this token is. Raises Refusal if the database does not answer."""
        try:
            await self.raters.learn(token)
        except (Away, UserError):  # the second: it was away when the studio opened it
            raise Refusal(503, AWAY) from None

    def accepts(self, token: str) -> bool:
        """Whether a rater has this token."""
        return self.raters.rater_with(token) is not None

    async def owner(self) -> Rater:
        """The rater as whom the owner votes, with the owner's own token."""
        if self._owner is None and self.exists:
            self._owner = await self.work(lambda: self.store().rater_named(OWNER))
        return self._owner or (0, OWNER)

    def of(self, name: str) -> tuple[Store, Arena]:
        """The database with its arena ``name``. Raises UserError if there is none."""
        if not self.exists:
            raise HTTPException(404, "There is no arena yet. The owner makes one on the page Votes.")
        if name not in self._arenas:  # an arena never changes
            self._arenas[name] = self.store().arena(name)
        return self.store(), self._arenas[name]

    def summary(self, name: str) -> dict[str, Any]:
        """All numbers of an arena, computed again after a vote."""
        store, arena = self.of(name)
        with self._summing:  # two pages that ask at once wait for one computation
            counts = store.counts(arena)
            known = self._summaries.get(name)
            if known is None or known[0] != counts:
                known = self._summaries[name] = (counts, summary(store, name))
            return known[1]


async def vote_desk(request: Request) -> VoteDesk:
    return request.app.state.votes


async def rater_of(request: Request) -> Rater:
    """The rater who sends this request: by a token, or the owner. Raises the error 401 for everybody else."""
    desk = await vote_desk(request)
    if request.state.role == "guest" and (found := desk.raters.rater_with(request.state.token)):
        return found
    if request.state.role == "owner":
        return await desk.owner()
    raise HTTPException(401, "Raters vote with their own link. The owner of the studio makes one on the page Votes.")
