"""The vote database of an open studio. It is opened when somebody first needs it, and says whose a token is."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

from fastapi import HTTPException, Request

from concordant.core.errors import UserError
from concordant.studio.access import Refusal
from concordant.votes.database import Away
from concordant.votes.rows import Arena
from concordant.votes.store import Store
from concordant.votes.summary import summary

AWAY = "The database of votes does not answer just now. Nothing is lost; send the same vote again in a moment."
OWNER = "owner"  # the rater as whom the studio's owner votes
_REMEMBERED = 5.0  # seconds for which a rater's token is known without asking; a retired one works so much longer
_MOST_TOKENS = 10_000

Rater = tuple[int, str]  # number in the database, name


class VoteDesk:
    def __init__(self, place: str) -> None:
        self.place = place
        self._store: Store | None = None
        self._opening, self._summing = threading.Lock(), threading.Lock()
        self._raters: OrderedDict[str, tuple[float, Rater | None]] = OrderedDict()
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

    def rater_with(self, token: str) -> Rater | None:
        """Who has this token; None if nobody has it. Raises ``Away``."""
        now = time.monotonic()
        known = self._raters.get(token)
        if known is None or now - known[0] > _REMEMBERED:
            known = (now, self.store().rater_with(token) if self.exists else None)
            self._raters[token] = known
            while len(self._raters) > _MOST_TOKENS:
                self._raters.popitem(last=False)
        return known[1]

    def accepts(self, token: str) -> bool:
        """Whether a rater has this token. Raises Refusal if the database does not answer."""
        try:
            return self.rater_with(token) is not None
        except (Away, UserError):  # the second: it was away when the studio opened it
            raise Refusal(503, AWAY) from None

    def owner(self) -> Rater:
        """The rater as whom the owner votes, with the owner's own token."""
        return self.store().rater_named(OWNER) if self.exists else (0, OWNER)

    def forget_tokens(self) -> None:
        self._raters.clear()

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


def vote_desk(request: Request) -> VoteDesk:
    return request.app.state.votes


def rater_of(request: Request) -> Rater:
    """The rater who sends this request: by a token, or the owner. Raises the error 401 for everybody else."""
    desk = vote_desk(request)
    if request.state.role == "guest" and (found := desk.rater_with(request.state.token)):
        return found
    if request.state.role == "owner":
        return desk.owner()
    raise HTTPException(401, "Raters vote with their own link. The owner of the studio makes one on the page Votes.")
