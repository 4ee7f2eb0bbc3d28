"""Which kernels there are, which devices they serve, and putting them on a model.

A kernel changes how fast numbers come and not the numbers: each has a plain twin in ``core/``, in ``models/`` or in the
model's own code, and tests hold both together. ``--model.kernels plain`` puts none on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel
from transformers.activations import NewGELUActivation

from concordant.kernels import attention, last_layer, norm, packed_attention, rotary, weight_gradients
from concordant.models.backbone import backbone

CPU, GPU = "cpu", "cuda"  # types of torch.device
PACKED, LAST_LAYER, SOFTMAX, ATTENTION = "packed trees", "last layer", "softmax", "attention"
CARRIED = "concordant_kernels"  # attribute of a backbone: the names of the kernels that were put on it


@dataclass(frozen=True, slots=True)
class Kernel:
    serves: tuple[str, ...]  # types of devices on which it was seen to pay
    put_on: Callable[[PreTrainedModel], bool]  # False where the model has nothing of the kind, or a proof failed


def _gelu(model: PreTrainedModel) -> bool:
    """GPT-2's GELU, nine tensor operations, by PyTorch's single one: the same function."""
    found = [(m, name) for m in model.modules() for name, c in m.named_children() if type(c) is NewGELUActivation]
    for module, name in found:
        setattr(module, name, nn.GELU(approximate="tanh"))
    return bool(found)


# In this order: packed trees need our attention, and the last layer is narrowed as the other kernels left it.
KERNELS: dict[str, Kernel] = {
    "gelu": Kernel((CPU, GPU), _gelu),
    "norm": Kernel((CPU,), norm.put_on),
    "rotary": Kernel((CPU,), rotary.put_on),
    "weight gradients": Kernel((CPU,), weight_gradients.put_on),
    ATTENTION: Kernel((CPU,), attention.put_on),
    PACKED: Kernel((CPU,), packed_attention.put_on),
    LAST_LAYER: Kernel((CPU, GPU), last_layer.put_on),
    SOFTMAX: Kernel((CPU, GPU), lambda model: True),
}


def put_on(model: PreTrainedModel) -> None:
    """Put every kernel that serves the device of ``model`` on the model, for good. A second call changes nothing.

    Call this after the model has been moved to its device and has its adapters.
    """
    body, device = backbone(model), model.device.type
    if CARRIED not in vars(body):
        carried = [name for name, kernel in KERNELS.items() if device in kernel.serves and kernel.put_on(model)]
        setattr(body, CARRIED, frozenset(carried))


def kernels_of(model: PreTrainedModel) -> frozenset[str]:
    """Names of the kernels that ``model`` carries."""
    return vars(backbone(model)).get(CARRIED, frozenset())
