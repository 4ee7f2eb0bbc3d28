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


def is_plain(x: Tensor) -> bool:
    """Whether the kernels of this package were measured for such a tensor: fp32 on a CPU."""
    return x.device.type == "cpu" and x.dtype == torch.float32


def _blank(kind: Any, *makers: Maker) -> nn.Module:
    for maker in makers:
        kind = maker(kind)
    return kind.__new__(kind)
