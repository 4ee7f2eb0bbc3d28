"""Settings of ``concordant studio``."""

from __future__ import annotations

from dataclasses import dataclass, field

from concordant.config.made import Made


@dataclass(kw_only=True)
class StudioConfig(Made):
    runs: str = "runs"  # folder whose run folders are shown; new runs are written to it
    host: str = "127.0.0.1"  # address to listen at; any other than this machine's own asks every visitor for the token
    port: int = 8700  # port to listen at; 0: a free one
    names: list[str] = field(default_factory=list)  # other host names under which browsers reach the studio
    votes: str = ""  # database of votes, a file or a URL as in votes; empty: votes.sqlite in the folder of runs
    requests_per_second: float = 50.0  # of one visitor, on average; four seconds' worth may come at once
    open: bool = False  # open the studio in this machine's browser
