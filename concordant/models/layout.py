"""Decides once, when a model is loaded, whether the tree layout is exact for this model.

The decision uses numbers and not the architecture's name. Random tokens go through the model's own code as plain rows
and as trees. The model gets ``Layout.TREE`` only if both give the same numbers, and if a wrong mask and wrong positions
give an error at least a hundred times as large. If the check fails or raises an error, the model gets ``Layout.FLAT``.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from concordant.core.trees import Layout, TreeBatch, lay_out
from concordant.models.backbone import CHECK_WINDOW, REFUSALS, narrow_window, run_backbone, undisturbed
from concordant.models.tree_attention import hidden_states
from concordant.models.trial import TOLERANCE, random_trees, two_rows

SENSITIVITY = 100.0  # the error of a wrong mask or wrong positions must be so many times the error of the tree layout
LONGEST_CHECK = 512  # tokens; a model with a longer window that cannot be narrowed is not checked and gets FLAT
ROPE_WITH_MEMORY = ("dynamic", "longrope")  # their angles depend on the longest row of this batch or of earlier ones


def is_causal(model: PreTrainedModel) -> bool:
    """True if a later token does not change the hidden states before it."""
    rows, prompt = two_rows(model)
    with undisturbed(model):
        one, other = run_backbone(model, rows)[:, :prompt].float()
    return bool((one - other).abs().max() < TOLERANCE * one.square().mean().sqrt())


def check_layout(model: PreTrainedModel) -> Layout:
    """The layout for ``model``, which may be any model with a causal backbone."""
    config = model.config.get_text_config()
    length = _length_to_check(config)
    if length is None or _has_rope_with_memory(config.to_dict()):
        return Layout.FLAT
    try:
        with undisturbed(model), narrow_window(config):
            return Layout.TREE if _trees_are_exact(model, length) else Layout.FLAT
    except REFUSALS:
        return Layout.FLAT


def _trees_are_exact(model: PreTrainedModel, length: int) -> bool:
    trees = random_trees(model, length)
    rows = torch.stack([torch.cat([t.prompt_T, b.ids_T]) for t in trees for b in t.branches]).to(model.device)
    batch = lay_out(trees).to(model.device)
    plain = _response_states(run_backbone(model, rows), lay_out(trees, Layout.FLAT))
    scale = plain.square().mean().sqrt()

    def error(wrong: TreeBatch) -> Tensor:
        return (_response_states(hidden_states(model, wrong, Layout.TREE), batch) - plain).abs().max() / scale

    right = error(batch)
    siblings_seen = error(replace(batch, branch_RL=batch.branch_RL.clamp(max=0)))
    positions = torch.arange(batch.ids_RL.shape[1], device=model.device).expand_as(batch.ids_RL)
    row_positions = error(replace(batch, position_RL=positions))
    return bool(right < TOLERANCE and SENSITIVITY * right < torch.minimum(siblings_seen, row_positions))


def _response_states(hidden_RLH: Tensor, batch: TreeBatch) -> Tensor:
    """The hidden states that predict the response tokens, in the caller's order, (N, H)."""
    source_N = batch.source_N[batch.token_N.argsort()].to(hidden_RLH.device)
    return hidden_RLH.flatten(0, 1)[source_N].float()


def _length_to_check(config: PretrainedConfig) -> int | None:
    """How many tokens a dialogue of the check needs to be longer than every window; None where that is too many."""
    windows = [
        value
        for name, value in config.to_dict().items()
        if re.search(r"window|chunk|local_attention", name)
        and name not in ("sliding_window", "max_window_layers", "chunk_size_feed_forward")
        and isinstance(value, int)
    ]
    length = 2 * CHECK_WINDOW + 1 + max(windows, default=0)
    return length if length <= LONGEST_CHECK else None


def _has_rope_with_memory(settings: Any) -> bool:
    if not isinstance(settings, dict):
        return False
    if settings.get("rope_type", settings.get("type")) in ROPE_WITH_MEMORY:
        return True
    return any(_has_rope_with_memory(value) for value in settings.values())
