"""An adapter that is made of several others, each with its weight, as PEFT's ``add_weighted_adapter``."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from concordant.core.errors import UserError, unknown_name
from concordant.models.lora import adapter_names, layers_with, lora_layers
from concordant.models.lora_kinds import CAT, COMBINATIONS
from concordant.models.lora_layer import check_adapter_name


@torch.no_grad()
def add_weighted_adapter(
    model: nn.Module, names: Sequence[str], weights: Sequence[float], target: str, combination: str = CAT
) -> None:
    """Add a frozen adapter ``target`` that is made of others, each with its weight. The active adapters stay active.

    ``combination`` has PEFT's names: ``cat`` is the exact weighted sum of the updates, of the sum of the ranks; ``svd``
    approximates this sum with the greatest of the ranks; ``linear`` adds A to A and B to B, each with the root of its
    weight, which is another update.

    Raises:
        UserError: an adapter or the combination is unknown; there is not one weight for each; an adapter is DoRA's or
            began as PiSSA; ``linear`` is given adapters of different ranks; ``target`` is taken.
    """
    check_adapter_name(target)
    if combination not in COMBINATIONS:
        raise unknown_name("combination", combination, COMBINATIONS)
    if len(names) != len(weights) or not names or not all(math.isfinite(weight) for weight in weights):
        raise UserError(f"{len(names)} adapters and {len(weights)} weights: expected a finite weight for each adapter")
    if target in adapter_names(model):
        raise UserError(f'the model already has an adapter "{target}"; choose another name or remove_adapter it')
    for name in names:
        for layer in layers_with(model, name).values():
            if not layer.adapter(name).is_plain:
                raise UserError(f'"{name}" is no plain LoRA adapter (DoRA or PiSSA), so its update cannot be weighted')
    made = {}
    for layer in lora_layers(model).values():
        parts = [
            (float(weight), layer.adapter(name).factors)
            for name, weight in zip(names, weights, strict=True)
            if name in layer.adapters
        ]
        if parts:
            made[layer] = COMBINATIONS[combination](parts)
    for layer, factors in made.items():
        rank = len(factors.a_rI)
        layer.add_adapter(target, rank, float(rank))  # a scaling of 1
        new = layer.adapter(target).requires_grad_(False)
        new.lora_A.copy_(factors.a_rI)
        new.lora_B.copy_(factors.b_Or)
