"""Reads trees with the kernels that were put on a model; the numbers are those of ``PlainReader``."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from transformers import PreTrainedModel

from concordant.core.trees import ROW_TOKENS, Layout, PromptTree, TreeBatch, micro_batches, packed_batches
from concordant.kernels import flex, last_layer, packed_attention, softmax
from concordant.kernels.put_on import FLEX, LAST_LAYER, PACKED, SOFTMAX, kernels_of
from concordant.models.backbone import backbone
from concordant.models.tree_attention import PlainReader, Reader, hidden_states, rows_at


def reader_of(model: PreTrainedModel, layout: Layout) -> Reader:
    return FastReader(model, layout) if kernels_of(model) else PlainReader(model, layout)


class FastReader:
    """Uses the kernels that the model has: packed rows or block masks, the narrowed last layer, the blocked softmax."""

    def __init__(self, model: PreTrainedModel, layout: Layout) -> None:
        carried = kernels_of(model)
        self.model, self.layout = model, layout
        self.blocks = layout is Layout.TREE and FLEX in carried
        self.packs = layout is Layout.TREE and PACKED in carried and not self.blocks
        self.narrows = layout is Layout.TREE and LAST_LAYER in carried
        self.distribution = softmax.distribution if SOFTMAX in carried else PlainReader.distribution

    def batches(self, trees: Sequence[PromptTree], max_tokens: int, row_tokens: int = ROW_TOKENS) -> list[TreeBatch]:
        if self.packs:
            return packed_batches(trees, max_tokens)
        if self.blocks:
            return packed_batches(trees, min(max_tokens, flex.ROW))
        return micro_batches(trees, self.layout, max_tokens, row_tokens)

    def hidden_at(self, batch: TreeBatch, at_N: Tensor) -> Tensor:
        if self.packs:
            at_T = packed_attention.tokens_of(batch)
            at_N = torch.searchsorted(at_T, at_N)
            with self._reading(len(at_T), at_N):
                return rows_at(packed_attention.in_one_row(self.model, batch, at_T), at_N)
        with self._reading(batch.ids_RL.numel(), at_N):
            if self.blocks and len(batch.ids_RL) == 1:
                return rows_at(flex.in_blocks(self.model, batch).flatten(0, 1), at_N)
            return rows_at(hidden_states(self.model, batch, self.layout).flatten(0, 1), at_N)

    def _reading(self, positions: int, at_N: Tensor) -> AbstractContextManager[None]:
        return last_layer.reading(backbone(self.model), positions, at_N) if self.narrows else nullcontext()
