"""The part of a transformers model below its output head: functions to run it and to read its configuration."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

FULL, SLIDING = "full_attention", "sliding_attention"  # transformers' names of layer types
CHECK_WINDOW = 6  # tokens; checks narrow a sliding window to this size, so that short rows are longer than the window
# Errors that architectures raise when they do not support a 4-D mask or the given position ids. An out-of-memory error
# is a RuntimeError too, but the checks use too few tokens to run out of memory.
REFUSALS = (ValueError, TypeError, RuntimeError, IndexError, KeyError, AttributeError, NotImplementedError)


def run_backbone(model: PreTrainedModel, ids_RL: Tensor, **inputs: Any) -> Tensor:
    """The backbone's last hidden state, (R, L, H), without cache and without output head."""
    return backbone(model)(input_ids=ids_RL, use_cache=False, return_dict=True, **inputs).last_hidden_state


def backbone(model: PreTrainedModel) -> nn.Module:
    """The part below the output head; ``model`` itself where there is no head."""
    if model.base_model is not model:
        return model.base_model
    inner = [child for child in model.children() if isinstance(child, PreTrainedModel)]
    return inner[0] if len(inner) == 1 else model


def output_embedding(model: PreTrainedModel) -> nn.Module:
    """The layer that turns hidden states into logits."""
    head = model.get_output_embeddings()
    if head is None:
        raise ValueError(f"{type(model).__name__} has no language-model head")
    return head


def layer_types(config: PretrainedConfig) -> set[str]:
    """The kinds of attention of the layers; empty where the configuration does not list them."""
    return set(config.to_dict().get("layer_types") or ())


def sliding_window(config: PretrainedConfig) -> int | None:
    """How many tokens a query of a sliding layer sees, including its own token; None without such layers."""
    return config.to_dict().get("sliding_window")


def positions(model: PreTrainedModel) -> int:
    """The longest dialogue, in tokens, that the model has positions for; 2**30 where the configuration has no limit."""
    return positions_of(model.config)


def positions_of(config: PretrainedConfig) -> int:
    """``positions`` of the model that has this configuration."""
    settings = config.get_text_config().to_dict()
    return settings.get("max_position_embeddings") or settings.get("n_positions") or 2**30


# -- a model that is only looked at ---------------------------------------------------------------


@contextmanager
def undisturbed(model: PreTrainedModel) -> Iterator[None]:
    """Inside the block there is no gradient and no dropout.

    At its end the global random state and the training flag of every module are the same as before.
    """
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng([model.device] if model.device.type == "cuda" else []):
            yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def narrow_window(config: PretrainedConfig) -> Iterator[None]:
    """Inside the block, a sliding window has at most ``CHECK_WINDOW`` tokens.

    transformers reads the window from the configuration at every call. So a few tokens are enough to check a window of
    thousands.
    """
    window = sliding_window(config)
    if window is None:
        yield
        return
    config.sliding_window = min(window, CHECK_WINDOW)
    try:
        yield
    finally:
        config.sliding_window = window
