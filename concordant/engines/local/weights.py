"""A learner's weights under the names of other programs: plain Hugging Face names, or PEFT's names for an adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from concordant.engines.local.sharding import whole_model
from concordant.engines.protocol import Adapters
from concordant.engines.tensor.cuts import mapped, pieces_of, whole_copy
from concordant.models.lora import active_names, lora_layers, merged_state_dict

PEFT_ROOT = "base_model.model."  # the prefix that PEFT puts before the path of an adapted layer


@dataclass(frozen=True, slots=True)
class LocalWeights:
    """The live weights of ``model``.

    Only ``tensors`` copies and merges, and gathers weights that are split; all ranks must then ask for them. So it
    costs nothing to publish weights to a generator with the same model.
    """

    model: nn.Module
    version: int
    adapters: Adapters = "merged"

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """If each process holds a part of the model, all of them must ask at the same time."""
        model = whole_model(self.model)
        model = (whole_copy(model) if pieces_of(model) else None) or model
        if self.adapters == "apart":
            return {name: tensor.detach() for name, tensor in adapter_tensors(model).items()}
        if not lora_layers(model):
            return model.state_dict()
        return merged_state_dict(model, active_names(model))


def adapter_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The live tensors of the active adapter, by PEFT's names. ValueError if the model has no adapter."""
    found: dict[str, Tensor] = {}
    for path, layer in lora_layers(model).items():
        if layer.active is not None:
            adapter = layer.adapter(layer.active)
            found[f"{PEFT_ROOT}{path}.lora_A.weight"] = adapter.lora_A
            found[f"{PEFT_ROOT}{path}.lora_B.weight"] = adapter.lora_B
            if adapter.lora_magnitude is not None:
                found[f"{PEFT_ROOT}{path}.lora_magnitude_vector"] = adapter.lora_magnitude
    if not found:
        raise ValueError('the model has no active adapter, so no adapter can be published: use adapters="merged"')
    return found


@torch.no_grad()
def load_tensors(model: nn.Module, tensors: Mapping[str, Tensor], adapters: Adapters) -> None:
    """Copy published ``tensors`` into ``model``. ValueError if the names or the kind of model do not fit.

    The tensors are whole; a model of which this process holds a part takes its part of them.
    """
    pieces = pieces_of(model)
    if adapters == "merged":
        if lora_layers(model):
            raise ValueError('this model has adapters, but the published weights are merged: use adapters="apart"')
        parts = {name: pieces[id(p)] for name, p in model.state_dict(keep_vars=True).items() if id(p) in pieces}
        model.load_state_dict(mapped(tensors, parts, "own"))
        return
    own = adapter_tensors(model)
    if own.keys() != tensors.keys():
        raise ValueError(f"another adapter was published: {sorted(own.keys() ^ tensors.keys())[:3]} do not match")
    parts = {name: pieces[id(p)] for name, p in own.items() if id(p) in pieces}
    for name, tensor in mapped(tensors, parts, "own").items():
        own[name].copy_(tensor)
