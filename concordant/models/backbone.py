"""A transformers model below its output head: how to run it, and what its configuration says of it.

R rows, L row length, H hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

FULL, SLIDING = "full_attention", "sliding_attention"  # transformers' names of layer types
CHECK_WINDOW = 6  # tokens a sliding window is narrowed to while checking, so that short rows are longer than it
# What architectures raise when they are given a 4-D mask or position ids they do not know. Running out of memory
# is a RuntimeError too, but 50 tokens do not.
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
    """Kinds of attention the layers have where the configuration tells them apart; empty where it does not."""
    return set(config.to_dict().get("layer_types") or ())


def sliding_window(config: PretrainedConfig) -> int | None:
    """Tokens a query of a sliding layer sees, itself included; None without such layers."""
    return config.to_dict().get("sliding_window")


def positions(model: PreTrainedModel) -> int:
    """Tokens of a dialogue the model has positions for; practically no limit where it states none."""
    settings = model.config.get_text_config().to_dict()
    return settings.get("max_position_embeddings") or settings.get("n_positions") or 2**30


# -- leaving everything as it was -----------------------------------------------------------------


@contextmanager
def undisturbed(model: PreTrainedModel) -> Iterator[None]:
    """No gradient, no dropout; afterwards global random state and every module's training flag are as they were."""
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
    """Masks are made from the configuration at every call, so a window of 4,096 can be proved in 13 tokens."""
    window = sliding_window(config)
    if window is None:
        yield
        return
    config.sliding_window = min(window, CHECK_WINDOW)
    try:
        yield
    finally:
        config.sliding_window = window
