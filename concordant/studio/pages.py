"""The pages of the studio. Each is a module with a function ``plug(app)``, which adds its routes to the application."""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Page:
    title: str
    path: str
    module: str


PAGES = (
    Page("Runs", "/", "concordant.studio.watch"),
    Page("Ask", "/ask", "concordant.studio.ask"),
    Page("Votes", "/votes", "concordant.studio.results"),
    Page("Chat", "/chat", "concordant.studio.talk"),
    Page("Learn", "/learn", "concordant.studio.learn"),
)


@functools.cache
def shown_pages() -> tuple[Page, ...]:
    """The pages whose module is installed."""
    return tuple(page for page in PAGES if importlib.util.find_spec(page.module))
