"""Gives a module another ``forward`` by moving it to a subclass; the classes of transformers and PyTorch stay the same.

A copy of such a module, and a module that is read from a pickle, have the same subclass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

# Attribute of each subclass made here: the plain class, then the makers that were applied to it, in order.
MAKERS = "concordant_makers"
# Attribute of a layer that holds only a part of its weights (engines/tensor): how many elements each whole weight has.
WHOLE = "concordant_whole"
# A function from a class to its subclass. It must be cached, and pickle must find it by its name in its module.
Maker = Callable[[Any], type[nn.Module]]


def subclass(kind: Any, forward: Callable[..., Any], maker: Maker) -> type[nn.Module]:
    """A subclass of ``kind`` with the same name and our ``forward``. ``maker(kind)`` must return this subclass."""
    makers = (*vars(kind).get(MAKERS, (kind,)), maker)

    def reduce(self: nn.Module, protocol: Any) -> tuple[Any, ...]:
        return _blank, makers, self.__dict__

    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    return type(kind.__name__, (kind,), {"forward": forward, "__reduce_ex__": reduce, MAKERS: makers, **names})


def is_made_by(module: nn.Module, maker: Maker) -> bool:
    return maker in vars(type(module)).get(MAKERS, ())


def put_beneath(module: nn.Module, maker: Maker, instead_of: Maker) -> None:
    """Apply ``maker`` to the plain class of ``module`` instead of ``instead_of``, and other makers again over it."""
    plain, *others = vars(type(module)).get(MAKERS, (type(module),))
    kind: Any = maker(plain)
    for other in others:
        kind = kind if other is instead_of else other(kind)
    module.__class__ = kind


def whole_elements(module: nn.Module) -> int:
    """How many elements the weights of ``module`` have, with a weight of which it holds a part counted as a whole."""
    sizes = [(vars(m).get(WHOLE, {}).get(name), p) for m in module.modules() for name, p in m._parameters.items()]
    return sum(p.numel() if size is None else size for size, p in sizes if p is not None)


def is_plain(x: Tensor) -> bool:
    """Whether the kernels of this package were measured for such a tensor: fp32 on a CPU."""
    return x.device.type == "cpu" and x.dtype == torch.float32


def _blank(kind: Any, *makers: Maker) -> nn.Module:
    for maker in makers:
        kind = maker(kind)
    return kind.__new__(kind)
