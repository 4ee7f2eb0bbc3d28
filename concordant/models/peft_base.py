"""Weights of the base that PEFT puts into an adapter's file: copies, and modules that were trained whole.

PEFT copies the embedding and the output layer into the file when an adapter targets one of them. A copy must be the
base's own weight, or the adapter belongs to another base. An output layer or embedding under ``modules_to_save`` was
trained whole: it takes the place of the base's, where no other weight is tied to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from concordant.core.errors import UserError
from concordant.models.peft_config import PeftConfig

_COPY = (".base_layer.", ".original_module.")
_SAVED = ".modules_to_save."
_REPLACED = "replaced_by_adapter"  # set on a module whose weight an adapter's file brought


class BaseWeights:
    """The base's weights in one adapter's file, checked when they are taken and put in place by ``replace``."""

    def __init__(self, model: nn.Module, prefix: str, config: PeftConfig, folder: Path) -> None:
        self.model, self.prefix, self.config, self.folder = model, prefix, config, folder
        self._new: list[tuple[nn.Module, Tensor]] = []

    def take(self, tensors: Mapping[str, Tensor], root: str) -> dict[str, Tensor]:
        """``tensors`` without the base's weights. UserError for a copy that is not this base's weight."""
        layers = _whole_layers(self.model)
        rest: dict[str, Tensor] = {}
        for key, value in tensors.items():
            plain = key
            for mark in (*_COPY, _SAVED):
                plain = plain.replace(mark, ".")
            path = plain.removeprefix(root).removeprefix(self.prefix).removesuffix(".weight")
            layer = layers.get(path) if plain.startswith(root) and plain.endswith(".weight") else None
            if layer is None or "lora_" in key:
                rest[key] = value
            elif self.config.saves(plain.removeprefix(root)) and not any(mark in key for mark in _COPY):
                self._will_replace(path, layer, value)
            elif not _same(_weight(layer), value):
                raise UserError(
                    f"{self.folder} was made for another base ({self.config.base_name or 'unnamed'}): its copy of "
                    f"{path}.weight is not this model's weight"
                )
        return rest

    def replace(self) -> None:
        """Put the weights that were trained whole into the model, frozen."""
        with torch.no_grad():
            for layer, value in self._new:
                _weight(layer).copy_(value)
                setattr(layer, _REPLACED, True)

    def _will_replace(self, path: str, layer: nn.Module, value: Tensor) -> None:
        weight = _weight(layer)
        named = self.model.named_parameters(remove_duplicate=False)
        others = [name for name, p in named if p is weight and not name.startswith(f"{path}.")]
        if others or value.shape != weight.shape:
            why = f"which is tied to {others[0]}" if others else f"of shape {tuple(weight.shape)}"
            raise UserError(f"{self.folder} also replaces {path}.weight, {why}: merge it with the tool that made it")
        self._new.append((layer, value))


def is_replaced(layer: nn.Module) -> bool:
    """Whether an adapter's file brought the weight of ``layer``."""
    return hasattr(layer, _REPLACED)


def replaced_weights(model: nn.Module) -> dict[str, Tensor]:
    """The weights that an adapter's file brought, by name: an adapter that is saved takes them along."""
    return {f"{path}.weight": _weight(layer) for path, layer in _whole_layers(model).items() if is_replaced(layer)}


def _whole_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The input embedding and the output layer by path: what PEFT copies."""
    if not isinstance(model, PreTrainedModel):
        return {}
    wanted = [layer for layer in (model.get_input_embeddings(), model.get_output_embeddings()) if layer is not None]
    return {path: module for path, module in model.named_modules() if any(module is layer for layer in wanted)}


def _weight(layer: nn.Module) -> Tensor:
    """The base's weight, also where an adapter is on the layer."""
    base = getattr(layer, "base", layer)
    return base.get_parameter("weight")


def _same(own: Tensor, copy: Tensor) -> bool:
    """Equal in the precision of the copy, which may be lower."""
    return own.shape == copy.shape and torch.equal(own.detach().cpu().to(copy.dtype), copy.cpu())
