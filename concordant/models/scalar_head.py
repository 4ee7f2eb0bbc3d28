"""Value heads, and the critic as a model of its own."""

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
from concordant.models.lora import adapter_names, copy_adapter, lora_layers, remove_adapter
from concordant.models.traits import ModelTraits

CRITIC = "critic"  # name of the critic's adapter on the backbone of a policy


class ValueHead(nn.Module):
    """Two layers (H → H, ReLU, H → 1). The last layer starts at 0, so that every value is 0 before training."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.output = _zero(nn.Linear(hidden_size, 1))

    def forward(self, hidden_NH: Tensor) -> Tensor:
        """Values (N, 1) in reward units."""
        return self.output(torch.relu(self.dense(hidden_NH)))


class LinearValueHead(nn.Module):
    """One layer (H → 1) that starts at 0, so that every value is 0 before training and not noise."""

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
    """A backbone without language-model head, a value head on its final hidden states, and the layout of its trees."""

    backbone: PreTrainedModel
    head: nn.Module
    layout: Layout
    adapter: str = ""  # the critic's adapter on a policy's backbone; "": the backbone is the critic's own


class Started(Protocol):
    """A policy or a reward model."""

    model: PreTrainedModel
    traits: ModelTraits


def build_critic(start: Started, kind: CriticHead = "linear", seed: int = 0) -> Critic:
    """A critic with a copy of the backbone of ``start``. No weight is shared, so its training changes no other model.

    If ``start`` has adapters, the copy's adapters are trained and its base stays frozen. Otherwise all weights of the
    copy are trained, even if ``start`` is frozen.
    """
    body = copy.deepcopy(backbone(start.model))
    assert isinstance(body, PreTrainedModel)
    active = {layer.active for layer in lora_layers(body).values()}
    for name in adapter_names(body):
        if name not in active:  # the adapter of the reference: the critic would train it without using it
            remove_adapter(body, name)
    adapted = bool(adapter_names(body))
    for name, parameter in body.named_parameters():
        parameter.requires_grad = not adapted or "lora_" in name
    return Critic(body, _value_head(body, kind, seed), start.traits.layout)


def critic_on_same_base(start: Started, source: str, kind: CriticHead = "linear", seed: int = 0) -> Critic:
    """A critic on the frozen backbone of ``start`` itself: a new adapter, which starts as a copy of ``source``.

    The critic has the numbers of ``build_critic``, and no second backbone stands in memory.
    """
    copy_adapter(start.model, source, CRITIC, trainable=True)
    body = backbone(start.model)
    assert isinstance(body, PreTrainedModel)
    return Critic(body, _value_head(body, kind, seed), start.traits.layout, CRITIC)


def _value_head(body: PreTrainedModel, kind: CriticHead, seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(derive(seed, "models/value_head"))
        return VALUE_HEADS[kind](output_size(body)).to(body.device)


def output_size(body: PreTrainedModel) -> int:
    """The size of the final hidden states. OPT may project them to the size of its embedding."""
    config = body.config.get_text_config()
    return config.to_dict().get("word_embed_proj_dim") or config.hidden_size
