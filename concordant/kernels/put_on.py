"""The table of kernels with the devices they serve, and the function that puts them on a model.

A kernel makes a model faster and does not change its numbers. Each kernel has a plain twin in ``core/``, in ``models/``
or in the model's own code, and tests compare the two. ``--model.kernels plain`` puts no kernel on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel
from transformers.activations import NewGELUActivation

from concordant.kernels import attention, flex, last_layer, norm, packed_attention, rotary, weight_gradients
from concordant.models.backbone import backbone

CPU, GPU = "cpu", "cuda"  # types of torch.device
PACKED, LAST_LAYER, SOFTMAX, ATTENTION = "packed trees", "last layer", "softmax", "attention"
WEIGHT_GRADIENTS, FLEX = "weight gradients", "flex"
CARRIED = "concordant_kernels"  # attribute of a backbone: the names of the kernels that were put on it


@dataclass(frozen=True, slots=True)
class Kernel:
    serves: tuple[str, ...]  # types of devices on which the kernel was measured to be faster
    put_on: Callable[[PreTrainedModel], bool]  # False where the kernel does not fit the model or a check fails


def _gelu(model: PreTrainedModel) -> bool:
    """Replace GPT-2's GELU, nine tensor operations, by PyTorch's single operation for the same function."""
    found = [(m, name) for m in model.modules() for name, c in m.named_children() if type(c) is NewGELUActivation]
    for module, name in found:
        setattr(module, name, nn.GELU(approximate="tanh"))
    return bool(found)


# The order matters: packed trees need our attention function, and the last layer's kernel wraps the other kernels.
KERNELS: dict[str, Kernel] = {
    "gelu": Kernel((CPU, GPU), _gelu),
    "norm": Kernel((CPU,), norm.put_on),
    "rotary": Kernel((CPU,), rotary.put_on),
    WEIGHT_GRADIENTS: Kernel((CPU,), weight_gradients.put_on),
    ATTENTION: Kernel((CPU,), attention.put_on),
    PACKED: Kernel((CPU,), packed_attention.put_on),
    LAST_LAYER: Kernel((CPU, GPU), last_layer.put_on),
    SOFTMAX: Kernel((CPU, GPU), lambda model: True),
}


# Kernels that were not measured yet. A model gets them only if they are asked for by name.
ON_REQUEST: dict[str, Kernel] = {FLEX: Kernel((GPU,), flex.put_on)}


def put_on(model: PreTrainedModel, requested: Collection[str] = ()) -> None:
    """Put every kernel that serves the device of ``model`` on the model, for good. A second call changes nothing.

    ``requested`` are names in ``ON_REQUEST``.
    Call this after the model has been moved to its device and has its adapters.
    """
    body, device = backbone(model), model.device.type
    if CARRIED not in vars(body):
        table = KERNELS | {name: ON_REQUEST[name] for name in requested}
        carried = [name for name, kernel in table.items() if device in kernel.serves and kernel.put_on(model)]
        setattr(body, CARRIED, frozenset(carried))


def put_on_adapters(model: PreTrainedModel) -> None:
    """Give the adapters that came after ``put_on`` the kernel of the model's other linear layers."""
    if WEIGHT_GRADIENTS in kernels_of(model):
        weight_gradients.put_on(model)


def kernels_of(model: PreTrainedModel) -> frozenset[str]:
    """Names of the kernels that were put on ``model``."""
    return vars(backbone(model)).get(CARRIED, frozenset())
