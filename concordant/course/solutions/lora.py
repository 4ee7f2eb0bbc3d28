"""LoRA: a frozen linear layer with a low-rank update that is learnt (Hu et al. 2021, arXiv:2106.09685)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class LoRALinear(nn.Module):
    """y = base(x) + alpha / r · B A x. ``lora_A`` is (r, in) and random, ``lora_B`` is (out, r) and zero."""

    def __init__(self, base: nn.Linear, r: int = 16, alpha: float = 32.0) -> None:
        super().__init__()
        self.base = base
        self.base.requires_grad_(False)
        self.lora_A = nn.Parameter(torch.empty(r, base.in_features))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, r))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        self.scaling = alpha / r

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + (x @ self.lora_A.T @ self.lora_B.T) * self.scaling


def find_target_modules(model: nn.Module, names: list[str]) -> list[str]:
    """The paths of the linear layers whose last name is one of ``names``."""
    return [
        path
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear) and path.rpartition(".")[2] in names
    ]


def apply_lora_to_model(model: nn.Module, names: list[str], r: int = 16, alpha: float = 32.0) -> None:
    """Replace the target layers by ``LoRALinear``. Afterwards only the matrices A and B are trainable."""
    model.requires_grad_(False)
    for path in find_target_modules(model, names):
        parent, _, name = path.rpartition(".")
        layer = model.get_submodule(path)
        assert isinstance(layer, nn.Linear)
        setattr(model.get_submodule(parent), name, LoRALinear(layer, r, alpha))


def merge_lora_weights(model: nn.Module) -> None:
    """Add each update to its base's weight, and put the plain layers back."""
    for path, layer in list(model.named_modules()):
        if isinstance(layer, LoRALinear):
            parent, _, name = path.rpartition(".")
            layer.base.weight.data += layer.lora_B.data @ layer.lora_A.data * layer.scaling
            setattr(model.get_submodule(parent), name, layer.base)
