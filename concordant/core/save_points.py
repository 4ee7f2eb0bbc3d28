"""Where a process may die while it saves: tests kill it at each of these points and look at what is left."""

from __future__ import annotations

POINTS = ("begun", "tensors", "values", "role", "loop", "manifest", "synced", "renamed", "hidden", "pruned")


def at(point: str) -> None:
    """One of ``POINTS`` has been reached. "tensors", "values" and "role" are reached once for every role."""
