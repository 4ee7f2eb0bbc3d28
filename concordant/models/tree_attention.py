"""Running a transformers backbone on trees: an explicit mask of who sees whom, and positions that restart.

The model's own code is not touched. A tree layout needs an architecture whose positions mix by attention
alone and which honours a given mask and given position ids; ``layout.py`` proves that at load.

R rows, L row length, H hidden size, N any positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from concordant.core.trees import ROW_TOKENS, Layout, PromptTree, TreeBatch, micro_batches, packed_batches
from concordant.models import last_layer, packed_attention

FULL, SLIDING = "full_attention", "sliding_attention"  # transformers' names of layer types
# Tokens (rows × length) of a pass without gradient. A CPU takes half as long again where what a layer makes is more
# than its cache holds.
CPU_FORWARD_TOKENS, FORWARD_TOKENS = 2048, 32768


def forward_tokens(device: torch.device) -> int:
    """Tokens (rows × length) a pass without gradient works on at once."""
    return CPU_FORWARD_TOKENS if device.type == "cpu" else FORWARD_TOKENS


def batches(
    model: PreTrainedModel | None,
    trees: Sequence[PromptTree],
    layout: Layout,
    max_tokens: int,
    row_tokens: int = ROW_TOKENS,
) -> list[TreeBatch]:
    """``trees`` in batches of at most ``max_tokens``, padding counted, laid as ``model`` runs them fastest."""
    if model is not None and layout is Layout.TREE and packed_attention.can_run(model):
        return packed_batches(trees, max_tokens)
    return micro_batches(trees, layout, max_tokens, row_tokens)


def hidden_states(model: PreTrainedModel, batch: TreeBatch, layout: Layout) -> Tensor:
    """Hidden states after the final norm, (R, L, H), what an output head reads.

    ``model`` is a backbone or anything that carries one (a causal LM, a sequence classifier). With
    ``Layout.FLAT`` every row of ``batch`` must hold one branch with its own trunk (``micro_batches`` does so):
    a plain two-dimensional mask is enough, and works for every architecture. Numbers where there is no token
    are finite and mean nothing.
    """
    if layout is Layout.FLAT:
        return run_backbone(model, batch.ids_RL, attention_mask=batch.is_token_RL.long())
    if packed_attention.can_run(model):
        at_T = _tokens(batch)
        hidden_TH = _in_one_row(model, batch, at_T)
        rows, length = batch.ids_RL.shape
        if len(at_T) < rows * length:
            hidden_TH = hidden_TH.new_zeros(rows * length, hidden_TH.shape[1]).index_copy(0, at_T, hidden_TH)
        return hidden_TH.view(rows, length, -1)
    mask = attention_mask(model.config, batch)
    return run_backbone(model, batch.ids_RL, attention_mask=mask, position_ids=batch.position_RL)


def hidden_at(model: PreTrainedModel, batch: TreeBatch, layout: Layout, at_N: Tensor) -> Tensor:
    """``hidden_states`` at ``at_N`` of the flattened rows, (N, H), without computing what only the others need.

    ``at_N``: positions with a token, in any order, repeated or not.
    """
    if layout is Layout.FLAT or packed_attention.recomputes(model):
        return last_layer.rows_at(hidden_states(model, batch, layout).flatten(0, 1), at_N)
    if packed_attention.can_run(model):
        at_T = _tokens(batch)
        at_N = torch.searchsorted(at_T, at_N)
        with last_layer.reading(backbone(model), len(at_T), at_N):
            return last_layer.rows_at(_in_one_row(model, batch, at_T), at_N)
    with last_layer.reading(backbone(model), batch.ids_RL.numel(), at_N):
        return last_layer.rows_at(hidden_states(model, batch, layout).flatten(0, 1), at_N)


def _tokens(batch: TreeBatch) -> Tensor:
    """Where in the flattened rows there is a token, (T,)."""
    return batch.is_token_RL.flatten().nonzero().squeeze(1)


def _in_one_row(model: PreTrainedModel, batch: TreeBatch, at_T: Tensor) -> Tensor:
    """All trees in one row of T tokens, each attended alone, (T, H)."""
    tree_T, branch_T = batch.tree_RL.flatten()[at_T], batch.branch_RL.flatten()[at_T]
    with packed_attention.attending(model, packed_attention.cut(tree_T.tolist(), branch_T.tolist())) as mask:
        return run_backbone(
            model,
            batch.ids_RL.flatten()[at_T][None],
            attention_mask=mask,
            position_ids=batch.position_RL.flatten()[at_T][None],
        )[0]


def run_backbone(model: PreTrainedModel, ids_RL: Tensor, **inputs: Any) -> Tensor:
    """The backbone's last hidden state, (R, L, H), without cache and without output head."""
    return backbone(model)(input_ids=ids_RL, use_cache=False, return_dict=True, **inputs).last_hidden_state


def backbone(model: PreTrainedModel) -> nn.Module:
    """The part below the output head; ``model`` itself where there is no head."""
    if model.base_model is not model:
        return model.base_model
    inner = [child for child in model.children() if isinstance(child, PreTrainedModel)]
    return inner[0] if len(inner) == 1 else model


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


def layer_types(config: PretrainedConfig) -> set[str]:
    """Kinds of attention the layers have where the configuration tells them apart; empty where it does not."""
    return set(config.to_dict().get("layer_types") or ())


def sliding_window(config: PretrainedConfig) -> int | None:
    """Tokens a query of a sliding layer sees, itself included; None without such layers."""
    return config.to_dict().get("sliding_window")


def positions(model: PreTrainedModel) -> int:
    """Tokens of a dialogue the model has positions for; practically no limit where it states none."""
    settings = model.config.get_text_config().to_dict()
    return settings.get("max_position_embeddings") or settings.get("n_positions") or 2**30


def _as_taken(config: PretrainedConfig, seen_RLL: Tensor) -> Tensor:
    seen = seen_RLL[:, None]
    if config._attn_implementation != "eager":
        return seen
    return torch.zeros(seen.shape, device=seen.device).masked_fill_(~seen, torch.finfo(torch.float32).min)


def output_embedding(model: PreTrainedModel) -> nn.Module:
    """The layer that turns hidden states into logits."""
    head = model.get_output_embeddings()
    if head is None:
        raise ValueError(f"{type(model).__name__} has no language-model head")
    return head
