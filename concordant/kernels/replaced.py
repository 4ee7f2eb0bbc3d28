"""Modules that get another ``forward``: an object of a subclass, while the classes of transformers and PyTorch stay.

A copy of such a module is of the same subclass, and so is one that was pickled and read again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

MAKERS = "concordant_makers"  # of a class made here: the plain class, and what made each subclass from the one before
Maker = Callable[[Any], type[nn.Module]]  # from a class to its subclass; cached, and found by its name in its module


def subclass(kind: Any, forward: Callable[..., Any], maker: Maker) -> type[nn.Module]:
    """A subclass of ``kind`` under the same name with our ``forward``. ``maker(kind)`` must give this subclass."""
    makers = (*vars(kind).get(MAKERS, (kind,)), maker)

    def reduce(self: nn.Module, protocol: Any) -> tuple[Any, ...]:
        return _blank, makers, self.__dict__

    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    return type(kind.__name__, (kind,), {"forward": forward, "__reduce_ex__": reduce, MAKERS: makers, **names})


def is_made_by(module: nn.Module, maker: Maker) -> bool:
    return maker in vars(type(module)).get(MAKERS, ())


def is_plain(x: Tensor) -> bool:
    """Where our own steps are worth their while and were measured: fp32 on a CPU."""
    return x.device.type == "cpu" and x.dtype == torch.float32


def _blank(kind: Any, *makers: Maker) -> nn.Module:
    for maker in makers:
        kind = maker(kind)
    return kind.__new__(kind)
