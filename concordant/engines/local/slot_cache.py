"""A preallocated cache of keys and values in which every row has its own length.

Rows 0 … R-1 are live. Each row writes its next key and value at its own length. Attention reads up to the end of the
longest live row and not all allocated columns. When a row ends, the last row moves to its place, so that there are no
holes. A prompt is computed once and then copied to the rows of all its samples.

A key/value heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from concordant.core.transfer import to_device

BLOCK = 16  # columns; the span of attention grows in steps of this size


class Cursor:
    """The places where all layers of one cache write in the next forward pass."""

    def __init__(self, rows: int, columns: int, device: torch.device) -> None:
        self.rows, self.columns = rows, columns
        self.device = device
        self.live = 0  # rows in use
        self.span = 0  # columns that attention reads; 0 during a prefill
        self.copies_G = torch.empty(0, dtype=torch.int64)  # how many rows each prefilled prompt fills
        self.copies = 0  # their sum
        self.column_R = torch.empty(0, dtype=torch.int64)  # the column where each decoding row writes
        self._cell_RA: dict[int, Tensor] = {}

    def prefill(self, copies: Sequence[int]) -> None:
        """Prepare a pass over prompts. Each prompt fills its number of ``copies`` of rows after the live rows."""
        self.span = 0
        self.copies_G, self.copies = to_device(torch.tensor(copies), self.device), sum(copies)

    def decode(self, column_R: Tensor, longest: int) -> None:
        """Prepare a pass of one token for each live row, at ``column_R``. The longest row then has ``longest``."""
        self.span = min(self.columns, -(-longest // BLOCK) * BLOCK)
        self.column_R = column_R
        self._cell_RA = {}

    def cells(self, heads: int) -> Tensor:
        """Index in the flattened store of the next place of each row and head; made once a step for all layers."""
        if heads not in self._cell_RA:
            row_R = torch.arange(self.live, device=self.device)
            head_A = torch.arange(heads, device=self.device)
            cell_RA = (row_R[:, None] * heads + head_A) * self.columns + self.column_R[:, None]
            self._cell_RA[heads] = cell_RA.flatten()
        return self._cell_RA[heads]


class SlotLayer(CacheLayerMixin):
    """Keys and values of one layer; both have the shape (allocated rows, A, allocated columns, D)."""

    keys: Tensor
    values: Tensor

    def __init__(self, cursor: Cursor, sliding: bool) -> None:
        super().__init__()
        self.cursor = cursor
        self.is_sliding = sliding  # transformers makes the mask of a prefill by this flag; the cache keeps all keys

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.keys = self._allocate(key_states)
        self.values = self._allocate(value_states)
        self.is_initialized = True

    def _allocate(self, like: Tensor) -> Tensor:
        """Zeros, because masked values must be finite too. Under autocast they have the dtype of attention."""
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

    def _fill(self, store: Tensor, states_GALD: Tensor) -> None:
        # Without the size of the result, the processor would have to wait for a GPU to count it.
        states = states_GALD.repeat_interleave(self.cursor.copies_G, dim=0, output_size=self.cursor.copies)
        first = self.cursor.live
        store[first : first + len(states), :, : states.shape[2]] = states

    def move(self, source_M: Tensor, target_M: Tensor, span: int) -> None:
        """Copy the first ``span`` columns of rows ``source_M`` over rows ``target_M``; M rows move."""
        if self.is_initialized:
            self.keys[target_M, :, :span] = self.keys[source_M, :, :span]
            self.values[target_M, :, :span] = self.values[source_M, :, :span]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.cursor.span or query_length, 0

    def get_seq_length(self) -> int:
        return 0  # a prefill starts at 0; during decoding, positions and masks are given

    def get_max_length(self) -> int:
        return self.cursor.columns


class SlotCache(Cache):
    """A ``SlotLayer`` for each layer of the model, and the cursor that they share."""

    def __init__(self, sliding: Sequence[bool], rows: int, columns: int, device: torch.device) -> None:
        self.cursor = Cursor(rows, columns, device)
        self.slots = [SlotLayer(self.cursor, s) for s in sliding]
        super().__init__(layers=[*self.slots])

    def move(self, source: list[int], target: list[int], span: int) -> None:
        source_M, target_M = (to_device(torch.tensor(rows), self.cursor.device) for rows in (source, target))
        for layer in self.slots:
            layer.move(source_M, target_M, span)
