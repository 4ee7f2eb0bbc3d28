"""Puts the frozen base under an adapter into few bits (``model.quantize``)."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from concordant.core.errors import UserError
from concordant.models.lora import adaptable_layers, backbone_modules, lora_layers
from concordant.models.quantized import NF4Linear, keep_tables_in_bf16


def keep_base_in_four_bits(model: PreTrainedModel, fresh: bool) -> None:
    """Keep the frozen base of ``model``, which has an adapter, in few bits: see models/quantized.py.

    ``fresh``: the adapter is new, and not that of a file. UserError without adapters, or without bitsandbytes.
    """
    wrapped = lora_layers(model)
    if not wrapped:
        raise UserError("model.quantize nf4: only a frozen base can be kept in four bits; set model.lora.rank")
    for layer in wrapped.values():
        layer.keep_in_four_bits(fresh)
    inside = backbone_modules(model)
    for path, module in adaptable_layers(model).items():
        if isinstance(module, nn.Linear | Conv1D) and module in inside:
            model.set_submodule(path, NF4Linear(module))
    keep_tables_in_bf16(model)
