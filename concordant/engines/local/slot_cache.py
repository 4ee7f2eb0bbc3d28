"""A preallocated cache of keys and values in which every row has its own length.

Rows 0 … R-1 are live; each writes its next key and value at its own length, and attention spans the
longest live row, not what was allocated. A row that ends gives its place to the last one, so there
are never holes; a prompt computed once fills the rows of all its samples.

R live rows, S rows allocated, C columns allocated, K columns attended, N prompts, L prompt length,
H key/value heads, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

BLOCK = 16  # columns; the span of attention grows in steps of it


class Cursor:
    """Where all layers of one cache write during the coming forward pass."""

    def __init__(self, rows: int, columns: int, device: torch.device) -> None:
        self.rows, self.columns = rows, columns
        self.device = device
        self.live = 0  # rows in use
        self.span = 0  # columns attended; 0 during a prefill
        self.copies_N = torch.empty(0, dtype=torch.int64)  # rows each prefilled prompt fills
        self.column_R = torch.empty(0, dtype=torch.int64)  # where each decoding row writes
        self._cell_RH: dict[int, Tensor] = {}

    def prefill(self, copies: Sequence[int]) -> None:
        """Prompts come next; they fill ``copies`` rows each, behind the live ones."""
        self.span = 0
        self.copies_N = torch.tensor(copies, device=self.device)

    def decode(self, column_R: Tensor, longest: int) -> None:
        """One token a live row comes next, at ``column_R``; the longest row will have ``longest`` then."""
        self.span = min(self.columns, -(-longest // BLOCK) * BLOCK)
        self.column_R = column_R
        self._cell_RH = {}

    def cells(self, heads: int) -> Tensor:
        """Index of each (row, head)'s next place in the flattened store, made once a step for all layers alike."""
        if heads not in self._cell_RH:
            row_R = torch.arange(self.live, device=self.device)
            head_H = torch.arange(heads, device=self.device)
            cell_RH = (row_R[:, None] * heads + head_H) * self.columns + self.column_R[:, None]
            self._cell_RH[heads] = cell_RH.flatten()
        return self._cell_RH[heads]


class SlotLayer(CacheLayerMixin):
    """One layer's keys and values, each (S, H, C, D)."""

    keys: Tensor
    values: Tensor

    def __init__(self, cursor: Cursor, sliding: bool) -> None:
        super().__init__()
        self.cursor = cursor
        self.is_sliding = sliding  # only tells transformers which mask to make for a prefill; no key is ever dropped

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.keys = self._allocate(key_states)
        self.values = self._allocate(value_states)
        self.is_initialized = True

    def _allocate(self, like: Tensor) -> Tensor:
        """Zeros, for what a mask hides must still be finite; under autocast in the precision attention runs in."""
        kind = like.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else like.dtype
        shape = (self.cursor.rows, like.shape[1], self.cursor.columns, like.shape[3])
        return torch.zeros(shape, dtype=dtype, device=like.device)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        cursor = self.cursor
        if cursor.span == 0:
            self._fill(self.keys, key_states)
            self._fill(self.values, value_states)
            return key_states, value_states
        cells = cursor.cells(key_states.shape[1])
        for store, states in ((self.keys, key_states), (self.values, value_states)):
            size = store.shape[3]
            store.view(-1, size).index_copy_(0, cells, states.reshape(-1, size).to(store.dtype))
        return self.keys[: cursor.live, :, : cursor.span], self.values[: cursor.live, :, : cursor.span]

    def _fill(self, store: Tensor, states_NHLD: Tensor) -> None:
        copies_N = self.cursor.copies_N
        states = states_NHLD.repeat_interleave(copies_N, dim=0)
        first = self.cursor.live
        store[first : first + len(states), :, : states.shape[2]] = states

    def move(self, source: list[int], target: list[int], span: int) -> None:
        """Copy the first ``span`` columns of rows ``source`` over rows ``target``."""
        if self.is_initialized:
            self.keys[target, :, :span] = self.keys[source, :, :span]
            self.values[target, :, :span] = self.values[source, :, :span]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.cursor.span or query_length, 0

    def get_seq_length(self) -> int:
        return 0  # a prefill starts at 0; while decoding positions and masks are given

    def get_max_length(self) -> int:
        return self.cursor.columns


class SlotCache(Cache):
    """One ``SlotLayer`` a layer and the cursor they share."""

    def __init__(self, sliding: Sequence[bool], rows: int, columns: int, device: torch.device) -> None:
        self.cursor = Cursor(rows, columns, device)
        self.slots = [SlotLayer(self.cursor, s) for s in sliding]
        super().__init__(layers=[*self.slots])

    def move(self, source: list[int], target: list[int], span: int) -> None:
        for layer in self.slots:
            layer.move(source, target, span)
