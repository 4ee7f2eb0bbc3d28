"""Runs a transformers backbone on trees, with a mask of which token sees which, and positions that restart per branch.

The model's own code is not changed. The tree layout is exact only if attention alone mixes the positions and the model
follows a given mask and given position ids. ``layout.py`` checks both when a model is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F  # noqa: N812 (the field's name for it)
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from concordant.core import logprobs
from concordant.core.trees import ROW_TOKENS, Layout, PromptTree, TreeBatch, micro_batches
from concordant.models.backbone import FULL, SLIDING, layer_types, run_backbone, sliding_window

# Tokens (rows × length) of a pass without gradient. A CPU is much slower when the tensors of a layer do not fit in its
# cache.
CPU_FORWARD_TOKENS, FORWARD_TOKENS = 2048, 32768


def forward_tokens(device: torch.device) -> int:
    """How many tokens (rows × length) go through the model at once in a pass without gradient."""
    return CPU_FORWARD_TOKENS if device.type == "cpu" else FORWARD_TOKENS


class Reader(Protocol):
    """How a model reads trees: ``PlainReader`` by the model's own code, ``kernels.reader.FastReader`` by kernels."""

    def batches(self, trees: Sequence[PromptTree], max_tokens: int, row_tokens: int = ROW_TOKENS) -> list[TreeBatch]:
        """Split ``trees`` into batches of at most ``max_tokens``, padding included; a batch has at least one tree."""
        ...

    def hidden_at(self, batch: TreeBatch, at_N: Tensor) -> Tensor:
        """Final hidden states at ``at_N`` of the flattened rows, (N, H).

        ``at_N`` holds positions with a token, in any order, and may repeat a position.
        """
        ...

    @property
    def distribution(self) -> logprobs.Distribution:
        """The function from logits to log-probability and entropy of each response token."""
        ...


class PlainReader:
    """Reads trees with the model's own code and a mask over every row."""

    distribution = staticmethod(logprobs.distribution)

    def __init__(self, model: PreTrainedModel, layout: Layout) -> None:
        self.model, self.layout = model, layout

    def batches(self, trees: Sequence[PromptTree], max_tokens: int, row_tokens: int = ROW_TOKENS) -> list[TreeBatch]:
        return micro_batches(trees, self.layout, max_tokens, row_tokens)

    def hidden_at(self, batch: TreeBatch, at_N: Tensor) -> Tensor:
        return rows_at(hidden_states(self.model, batch, self.layout).flatten(0, 1), at_N)


def rows_at(x_TH: Tensor, at_N: Tensor) -> Tensor:
    """``x_TH[at_N]``, (N, H), with a gradient that has the same bits for every number of threads.

    All branches of a tree read the last hidden state of the trunk. The gradient of plain indexing would add the
    branches' parts in an order that depends on the threads. The gradient of an embedding look-up adds the parts in a
    fixed order and is faster.
    """
    return F.embedding(at_N, x_TH)


def hidden_states(model: PreTrainedModel, batch: TreeBatch, layout: Layout) -> Tensor:
    """Hidden states after the final norm, (R, L, H), which an output head reads.

    ``model`` is a backbone or a model with a backbone (a causal LM, a sequence classifier). With ``Layout.FLAT`` every
    row of ``batch`` must hold one branch with its own trunk, as ``micro_batches`` makes them. Then a plain
    two-dimensional mask is enough, and it works for every architecture. At positions without a token the numbers are
    finite and have no meaning.
    """
    if layout is Layout.FLAT:
        return run_backbone(model, batch.ids_RL, attention_mask=batch.is_token_RL.long())
    mask = attention_mask(model.config, batch)
    return run_backbone(model, batch.ids_RL, attention_mask=mask, position_ids=batch.position_RL)


def visible(batch: TreeBatch, window: int | None = None) -> Tensor:
    """True where token q may see token k, bool (R, Q, K).

    q sees k if both belong to one tree, k is not later, and k belongs to the trunk or to q's branch. ``window`` is the
    number of tokens that a query sees, its own token included, counted in position ids as in a plain row. A position
    without a token sees other positions without a token, because an empty row of the mask would give NaN.
    """
    length = batch.ids_RL.shape[1]
    tree_RL, branch_RL = batch.tree_RL, batch.branch_RL
    index_L = torch.arange(length, device=tree_RL.device)
    seen = (index_L[:, None] >= index_L) & (tree_RL[:, :, None] == tree_RL[:, None, :])
    seen &= (branch_RL[:, None, :] == -1) | (branch_RL[:, None, :] == branch_RL[:, :, None])
    if window is not None:
        seen &= batch.position_RL[:, :, None] - batch.position_RL[:, None, :] < window
    return seen


def attention_mask(config: PretrainedConfig, batch: TreeBatch) -> Tensor | dict[str, Tensor]:
    """The 4-D mask (R, 1, Q, K) that this architecture takes: one for all layers, or one for each type of layer.

    The mask is boolean, except for eager attention, which adds the mask to the scores and would add True as 1.
    """
    config = config.get_text_config()
    types, window = layer_types(config), sliding_window(config)
    if SLIDING in types:
        return {
            FULL: _as_taken(config, visible(batch)),
            SLIDING: _as_taken(config, visible(batch, window)),
        }
    return _as_taken(config, visible(batch, None if types else window))


def _as_taken(config: PretrainedConfig, seen_RLL: Tensor) -> Tensor:
    seen = seen_RLL[:, None]
    if config._attn_implementation != "eager":
        return seen
    return torch.zeros(seen.shape, device=seen.device).masked_fill_(~seen, torch.finfo(torch.float32).min)
