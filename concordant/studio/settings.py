"""What an open studio knows: its folders, its database and its secrets."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from pathlib import Path

from concordant.core.addresses import in_url, is_loopback
from concordant.serve.bodies import LARGEST_BODY

VOTES_FILE = "votes.sqlite"


@dataclass(frozen=True, kw_only=True)
class Settings:
    runs: Path  # folder of runs, resolved
    host: str = "127.0.0.1"  # address that the server listens at
    port: int = 8700
    names: tuple[str, ...] = ()  # other host names under which browsers reach the studio
    votes: str = ""  # file or URL of the vote database; empty: VOTES_FILE in the folder of runs
    requests_per_second: float = 50.0  # of one visitor
    largest_body: int = LARGEST_BODY  # bytes of a request
    token: str = field(default_factory=lambda: secrets.token_urlsafe(32))  # of the owner, who may start runs
    secret: bytes = field(default_factory=lambda: secrets.token_bytes(32))  # CSRF tokens are made from it

    @property
    def is_open(self) -> bool:
        """Whether only this machine reaches the studio, so that reading needs no token."""
        return is_loopback(self.host)

    @property
    def vote_database(self) -> str:
        return self.votes or str(self.runs / VOTES_FILE)

    @property
    def address(self) -> str:
        """The studio's address for a browser of this machine."""
        every = self.host in ("0.0.0.0", "::", "")
        host = "127.0.0.1" if every else in_url(self.host)
        return f"http://{host}:{self.port}"
