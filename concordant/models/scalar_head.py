"""Value heads, and a critic that is a model of its own.

N positions, H hidden size.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from concordant.config.names import CriticHead
from concordant.core.seeding import derive
from concordant.core.trees import Layout
from concordant.models.backbone import backbone
from concordant.models.lora import adapter_names, lora_layers, remove_adapter
from concordant.models.traits import ModelTraits


class ValueHead(nn.Module):
    """Hidden → hidden, ReLU, → 1: the two-layer head. Its last layer starts at 0, so that the first value is 0."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.output = _zero(nn.Linear(hidden_size, 1))

    def forward(self, hidden_NH: Tensor) -> Tensor:
        """Values (N, 1) in reward units."""
        return self.output(torch.relu(self.dense(hidden_NH)))


class LinearValueHead(nn.Module):
    """Hidden → 1, starting at 0: a critic that knows nothing says 0 rather than noise."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.output = _zero(nn.Linear(hidden_size, 1))

    def forward(self, hidden_NH: Tensor) -> Tensor:
        """Values (N, 1) in reward units."""
        return self.output(hidden_NH)


def _zero(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


VALUE_HEADS: dict[CriticHead, Callable[[int], nn.Module]] = {"linear": LinearValueHead, "mlp": ValueHead}


class Critic(NamedTuple):
    """A backbone without language-model head, a value head on its last hidden states, and how trees are laid for it."""

    backbone: PreTrainedModel
    head: nn.Module
    layout: Layout


class Started(Protocol):
    """A policy or a reward model."""

    model: PreTrainedModel
    traits: ModelTraits


def build_critic(start: Started, kind: CriticHead = "linear", seed: int = 0) -> Critic:
    """A critic with a copy of ``start``'s backbone; nothing is shared, so training it moves nothing else.

    With adapters the copy's adapters train and its base stays frozen; else all of
    it trains, even if ``start`` is frozen.
    """
    body = copy.deepcopy(backbone(start.model))
    assert isinstance(body, PreTrainedModel)
    active = {layer.active for layer in lora_layers(body).values()}
    for name in adapter_names(body):
        if name not in active:  # the reference's: it would be trained, and serve nothing
            remove_adapter(body, name)
    adapted = bool(adapter_names(body))
    for name, parameter in body.named_parameters():
        parameter.requires_grad = not adapted or "lora_" in name
    with torch.random.fork_rng():
        torch.manual_seed(derive(seed, "models/value_head"))
        head = VALUE_HEADS[kind](output_size(body))
    return Critic(body, head.to(start.model.device), start.traits.layout)


def output_size(body: PreTrainedModel) -> int:
    """Size of the final hidden states; OPT may project them to that of its embedding."""
    config = body.config.get_text_config()
    return config.to_dict().get("word_embed_proj_dim") or config.hidden_size
