"""Which rows of a weight each rank holds where ranks split the weights, and a learner's state made of such rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from concordant.engines.ranks import Ranks, writes
from concordant.engines.state_files import read_state, write_state
from concordant.engines.tensor.cuts import Piece


def rows_of(rows: int, ranks: Ranks) -> slice:
    """The rows that this rank holds of a tensor with ``rows`` rows, by FSDP2's rule."""
    each = -(-rows // ranks.size)
    return slice(min(ranks.rank * each, rows), min((ranks.rank + 1) * each, rows))


@dataclass(frozen=True, slots=True)
class RowsOfPiece:
    """A weight that a tensor group splits by ``piece``, and whose part of the shape ``shape`` the ranks split by rows.

    Files have rows of the whole weight. So "whole" means here what the tensor group has together: the rows that this
    rank would hold without the group. ``device`` is where tensors are exchanged.
    """

    ranks: Ranks
    piece: Piece
    shape: torch.Size
    device: torch.device
    is_split: ClassVar[bool] = True
    counts: ClassVar[bool] = True

    def whole(self, own: Tensor) -> Tensor:
        """The rows of the whole weight that this rank writes. All ranks and their groups call this."""
        weight = self.piece.whole(self._joined(own, self.shape[0]))
        return weight[rows_of(len(weight), self.ranks)].to(own.device, copy=True)

    def own(self, whole: Tensor) -> Tensor:
        """What this process holds, from the rows of the whole weight that this rank read. All processes call this."""
        part = self.piece.own(self._joined(whole, self.piece.cut.total if self.piece.dim == 0 else self.shape[0]))
        return part[rows_of(len(part), self.ranks)].to(whole.device, copy=True)

    def joined(self, gradient: Tensor) -> Tensor:
        return gradient

    def elements(self, own: Tensor) -> int:
        return self.shape.numel() // max(1, self.shape[self.piece.dim]) * self.piece.cut.total

    def _joined(self, own: Tensor, rows: int) -> Tensor:
        """All ``rows`` rows, of which every rank gives its own."""
        joined = torch.zeros(rows, *own.shape[1:], dtype=own.dtype, device=self.device)
        joined[rows_of(rows, self.ranks)] = own.to(self.device)
        return self.ranks.sum(joined.view(-1)).view_as(joined)


def write_parts(folder: Path, state: Mapping[str, Any], ranks: Ranks) -> None:
    """Every rank writes its part of a learner's state; rank 0 writes all if every rank holds all. One process of each
    tensor group writes, and OSError is raised by those of all ranks if one of them cannot.
    """
    if not ranks.sharded:
        if writes(ranks):
            write_state(folder, state)
        return
    problem = ""
    try:
        if ranks.tensor.rank == 0:
            write_state(folder, state, ranks.rank, ranks.size)
    except OSError as raised:
        problem = str(raised)
    for rank, theirs in enumerate(ranks.gather(problem)):
        if theirs:
            raise OSError(f"worker {rank}: {theirs}")


def read_parts(folder: Path, ranks: Ranks) -> dict[str, Any]:
    """What this rank holds of the state of a learner, whatever ranks wrote it."""
    return read_state(folder, (lambda rows: rows_of(rows, ranks)) if ranks.sharded else None)
