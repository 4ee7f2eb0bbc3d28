"""Exercise 1: LoRA. Fill in the four parts, then run: concordant course check 1 exercise_1.py"""

from __future__ import annotations

from torch import Tensor, nn


class LoRALinear(nn.Module):
    """y = base(x) + alpha / r · B A x. ``lora_A`` is (r, in) and random, ``lora_B`` is (out, r) and zero.

    The base is frozen. At the start the layer gives the output of its base.
    """

    def __init__(self, base: nn.Linear, r: int = 16, alpha: float = 32.0) -> None:
        super().__init__()
        self.base = base
        raise NotImplementedError("make self.lora_A and self.lora_B, freeze the base")

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError("the base's output plus the scaled update")


def find_target_modules(model: nn.Module, names: list[str]) -> list[str]:
    """The paths of the linear layers whose last name is one of ``names``, in the order of ``named_modules``."""
    raise NotImplementedError("walk over model.named_modules()")


def apply_lora_to_model(model: nn.Module, names: list[str], r: int = 16, alpha: float = 32.0) -> None:
    """Replace the target layers by ``LoRALinear``. Afterwards only the matrices A and B are trainable."""
    raise NotImplementedError("model.get_submodule(path) finds a layer's parent, setattr replaces the layer")


def merge_lora_weights(model: nn.Module) -> None:
    """Add each update to its base's weight, and put the plain layers back."""
    raise NotImplementedError("the output of the model must stay the same")
