"""The language-model head alone: the logits of given hidden states, equal to those of the model's own forward pass."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast

from concordant.core.errors import UserError
from concordant.core.trees import lay_out
from concordant.models.backbone import CHECK_WINDOW, backbone, output_embedding, run_backbone, undisturbed
from concordant.models.trial import close, random_trees


@dataclass(frozen=True, slots=True)
class Head:
    """The operations of an architecture after its output embedding."""

    scale: float = 1.0  # the logits are multiplied by this factor (Cohere's logit_scale, 1 / Granite's logits_scaling)
    softcap: float | None = None  # after scaling, a logit x becomes softcap · tanh(x / softcap) (Gemma 2)
    own_code: bool = False  # the head does something else, so the model's own forward code computes the logits


def lm_logits(model: PreTrainedModel, hidden_NH: Tensor, head: Head) -> Tensor:
    """Next-token logits (N, V) of final hidden states, equal to those of the model's own forward pass."""
    if head.own_code:
        return _own_logits(model, hidden_NH)
    logits_NV = output_embedding(model)(hidden_NH)
    if head.scale != 1.0:
        logits_NV = logits_NV * head.scale
    if head.softcap is not None:
        logits_NV = torch.tanh(logits_NV / head.softcap) * head.softcap
    return logits_NV


# -- the head -------------------------------------------------------------------------------------


def find_head(model: PreTrainedModel) -> Head:
    """The cheapest ``Head`` that gives the model's own logits from its hidden states.

    Raises:
        UserError: no ``Head`` gives the model's own logits.
    """
    with undisturbed(model):
        (row,) = lay_out(random_trees(model, 2 * CHECK_WINDOW + 1)[:1]).ids_RL.to(model.device).split(1)
        wanted = model(input_ids=row, use_cache=False).logits[0].float()
        hidden = run_backbone(model, row)[0]
        for head in _candidate_heads(model.config.get_text_config()):
            if close(lm_logits(model, hidden, head).float(), wanted):
                return head
    raise UserError(
        f"the logits of {type(model).__name__} cannot be computed from its hidden states: "
        "Concordant trains causal language models whose head reads the backbone's last hidden state"
    )


def _candidate_heads(config: PretrainedConfig) -> Iterator[Head]:
    """Heads that the configuration suggests, in the order in which they are tried.

    Each head is compared in numbers, so a configuration field with another meaning does no harm. Heads with a cap come
    first, because a cap hardly changes the small logits of an untrained model.
    """
    settings = config.to_dict()
    scales = [1.0]
    if settings.get("logit_scale"):
        scales.append(settings["logit_scale"])
    if settings.get("logits_scaling"):
        scales.append(1.0 / settings["logits_scaling"])
    caps = [settings["final_logit_softcapping"], None] if settings.get("final_logit_softcapping") else [None]
    yield from (Head(scale, cap) for cap, scale in product(caps, scales))
    yield Head(own_code=True)


class _Given(nn.Module):
    """Takes the place of the backbone and returns given hidden states."""

    def __init__(self, hidden_NH: Tensor) -> None:
        super().__init__()
        self.hidden_NH = hidden_NH

    def forward(self, *_: Any, **__: Any) -> BaseModelOutputWithPast:
        return BaseModelOutputWithPast(last_hidden_state=self.hidden_NH[None])


def _own_logits(model: PreTrainedModel, hidden_NH: Tensor) -> Tensor:
    below = backbone(model)
    (name,) = (name for name, child in model.named_children() if child is below)
    ids = torch.zeros((1, len(hidden_NH)), dtype=torch.int64, device=hidden_NH.device)
    view = copy.copy(model)  # shares the weights; the model itself must not change, another thread may be using it
    view._modules = {**model._modules, name: _Given(hidden_NH)}
    return view(input_ids=ids, use_cache=False).logits[0]
