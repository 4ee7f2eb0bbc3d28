"""A learner's weights under the names of other programs: plain Hugging Face names, or PEFT's names for an adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from concordant.engines.protocol import Adapters
from concordant.models.lora import active_name, lora_layers, merged_state_dict

PEFT_ROOT = "base_model.model."  # the prefix that PEFT puts before the path of an adapted layer


@dataclass(frozen=True, slots=True)
class LocalWeights:
    """The live weights of ``model``.

    Only ``tensors`` copies and merges. So it costs nothing to publish weights to a generator with the same model.
    """

    model: nn.Module
    version: int
    adapters: Adapters = "merged"

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        if self.adapters == "apart":
            return {name: tensor.detach() for name, tensor in adapter_tensors(self.model).items()}
        if not lora_layers(self.model):
            return self.model.state_dict()
        return merged_state_dict(self.model, active_name(self.model))


def adapter_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The live tensors of the active adapter, by PEFT's names. ValueError if the model has no adapter."""
    found: dict[str, Tensor] = {}
    for path, layer in lora_layers(model).items():
        if layer.active is not None:
            adapter = layer.adapter(layer.active)
            found[f"{PEFT_ROOT}{path}.lora_A.weight"] = adapter.lora_A
            found[f"{PEFT_ROOT}{path}.lora_B.weight"] = adapter.lora_B
    if not found:
        raise ValueError('the model has no active adapter, so no adapter can be published: use adapters="merged"')
    return found


@torch.no_grad()
def load_tensors(model: nn.Module, tensors: Mapping[str, Tensor], adapters: Adapters) -> None:
    """Copy published ``tensors`` into ``model``. ValueError if the names or the kind of model do not fit."""
    if adapters == "merged":
        if lora_layers(model):
            raise ValueError('this model has adapters, but the published weights are merged: use adapters="apart"')
        model.load_state_dict(tensors)
        return
    own = adapter_tensors(model)
    if own.keys() != tensors.keys():
        raise ValueError(f"another adapter was published: {sorted(own.keys() ^ tensors.keys())[:3]} do not match")
    for name, tensor in tensors.items():
        own[name].copy_(tensor)
