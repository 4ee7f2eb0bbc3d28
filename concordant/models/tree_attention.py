"""Running a transformers backbone on trees: an explicit mask of who sees whom, and positions that restart.

The model's own code is not touched. A tree layout needs an architecture whose positions are mixed by attention alone
and which honours a given mask and given position ids; ``layout.py`` proves both at load.

R rows, L row length, H hidden size, N any positions, V vocabulary.
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

# Tokens (rows × length) of a pass without gradient. A CPU takes half as long again where what a layer makes is more
# than its cache holds.
CPU_FORWARD_TOKENS, FORWARD_TOKENS = 2048, 32768


def forward_tokens(device: torch.device) -> int:
    """Tokens (rows × length) a pass without gradient works on at once."""
    return CPU_FORWARD_TOKENS if device.type == "cpu" else FORWARD_TOKENS


class Reader(Protocol):
    """How a model reads trees. ``PlainReader`` is the mathematics, ``kernels.reader.FastReader`` the same numbers."""

    def batches(self, trees: Sequence[PromptTree], max_tokens: int, row_tokens: int = ROW_TOKENS) -> list[TreeBatch]:
        """``trees`` in batches of at most ``max_tokens``, padding counted, and of one whole tree at least."""
        ...

    def hidden_at(self, batch: TreeBatch, at_N: Tensor) -> Tensor:
        """Final hidden states at ``at_N`` of the flattened rows, (N, H).

        ``at_N``: positions with a token, in any order, repeated or not.
        """
        ...

    @property
    def distribution(self) -> logprobs.Distribution:
        """What turns logits into numbers of the response tokens."""
        ...


class PlainReader:
    """Trees read by the model's own code, with a mask over every row."""

    distribution = staticmethod(logprobs.distribution)

    def __init__(self, model: PreTrainedModel, layout: Layout) -> None:
        self.model, self.layout = model, layout

    def batches(self, trees: Sequence[PromptTree], max_tokens: int, row_tokens: int = ROW_TOKENS) -> list[TreeBatch]:
        return micro_batches(trees, self.layout, max_tokens, row_tokens)

    def hidden_at(self, batch: TreeBatch, at_N: Tensor) -> Tensor:
        return rows_at(hidden_states(self.model, batch, self.layout).flatten(0, 1), at_N)


def rows_at(x_TH: Tensor, at_N: Tensor) -> Tensor:
    """``x_TH[at_N]``, (N, H), with a gradient that is the same to the bit however many threads there are.

    All branches of a tree read the last hidden state of its trunk. The gradient of plain indexing adds the branches'
    parts in whatever order the threads come. This is an embedding look-up, whose gradient adds the parts in a fixed
    order, in a seventh of the time.
    """
    return F.embedding(at_N, x_TH)


def hidden_states(model: PreTrainedModel, batch: TreeBatch, layout: Layout) -> Tensor:
    """Hidden states after the final norm, (R, L, H), what an output head reads.

    ``model`` is a backbone or anything that carries one (a causal LM, a sequence classifier). With
    ``Layout.FLAT`` every row of ``batch`` must hold one branch with its own trunk (``micro_batches`` does so):
    a plain two-dimensional mask is enough, and works for every architecture. Numbers where there is no token
    are finite and mean nothing.
    """
    if layout is Layout.FLAT:
        return run_backbone(model, batch.ids_RL, attention_mask=batch.is_token_RL.long())
    mask = attention_mask(model.config, batch)
    return run_backbone(model, batch.ids_RL, attention_mask=mask, position_ids=batch.position_RL)


def visible(batch: TreeBatch, window: int | None = None) -> Tensor:
    """True where token q may see token k, bool (R, q, k): same tree, k not later, k of the trunk or of q's branch.

    ``window``: tokens back a query sees, itself included, counted in position ids as a plain row counts them. A
    position without token sees only its own kind, so that no row of the mask is empty (an empty one gives NaN).
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
    """The 4-D mask (R, 1, q, k) this architecture takes: one for all layers, or one a layer type.

    Boolean for attention functions that select by it; numbers to add for eager attention, which would add
    True as 1.
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
