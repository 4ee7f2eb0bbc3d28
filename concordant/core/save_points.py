"""Named points in the saving of a checkpoint. Tests kill the process at each one and check which files are left."""

from __future__ import annotations

POINTS = ("begun", "tensors", "values", "role", "loop", "manifest", "synced", "renamed", "hidden", "pruned")


def at(point: str) -> None:
    """Called when ``point``, one of ``POINTS``, is reached. "tensors", "values" and "role" occur once for each role."""
