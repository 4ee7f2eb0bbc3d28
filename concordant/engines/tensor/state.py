"""A learner's state as files hold it: whole tensors, whatever the mesh, so that a run may go on with another mesh."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from concordant.engines.tensor.cuts import Part, mapped


class Parts:
    """Which tensors of a learner's state are parts. ``named`` are the trained weights by name, ``groups``
    those of the optimizer in its order."""

    def __init__(self, named: Mapping[str, Tensor], groups: Sequence[Mapping[str, Any]], pieces: Mapping[int, Part]):
        ordered = [p for group in groups for p in group["params"]]
        self._by_name = {name: pieces[id(p)] for name, p in named.items() if id(p) in pieces}
        self._by_number = {i: pieces[id(p)] for i, p in enumerate(ordered) if id(p) in pieces}

    def whole(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """``state`` of whole tensors. All processes that hold parts call this."""
        return self._mapped(state, "whole")

    def own(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """This process's parts of a ``state`` of whole tensors."""
        return self._mapped(state, "own")

    def _mapped(self, state: Mapping[str, Any], make: str) -> dict[str, Any]:
        optimizer = state["optimizer"]
        kept = state["kept"]
        return {
            **state,
            "weights": mapped(state["weights"], self._by_name, make),
            "kept": None if kept is None else mapped(kept, self._by_name, make),
            "optimizer": {**optimizer, "state": mapped(optimizer["state"], self._by_number, make)},
        }
