"""Cuts: which part of a dimension each process of a tensor group holds, and how parts become whole tensors again.

A layer with split weights keeps its cuts by the names of the weights. Everything that reads weights as files, such as a
checkpoint or an export, makes them whole first, so that no file depends on the mesh.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from torch import Tensor, nn

from concordant.core.axis import Axis
from concordant.kernels.replaced import WHOLE
from concordant.models.quantized import hidden_weights

CUTS = "concordant_cuts"  # attribute of a layer that holds parts: the ``Part`` of each of its weights
M = TypeVar("M", bound=nn.Module)

Span = tuple[int, int]  # first index, and one past the last


@dataclass(frozen=True, slots=True)
class Cut:
    """A dimension that is split over ``axis``. ``spans[r]`` are the indices of process r, in the order of its part."""

    axis: Axis
    spans: Sequence[Sequence[Span]]

    @property
    def total(self) -> int:
        return sum(self.sizes)

    @property
    def start(self) -> int:
        """The first index of this process's part, of a dimension that is split into ranges."""
        return self.spans[self.axis.rank][0][0]

    @property
    def sizes(self) -> list[int]:
        """How many indices each process has."""
        return [sum(stop - start for start, stop in part) for part in self.spans]

    @property
    def own_size(self) -> int:
        return self.sizes[self.axis.rank]

    def own(self, whole: Tensor, dim: int = -1) -> Tensor:
        """This process's part of ``whole``, a copy."""
        parts = [whole.narrow(dim, start, stop - start) for start, stop in self.spans[self.axis.rank]]
        return torch.cat(parts, dim)

    def whole(self, own: Tensor, dim: int = -1) -> Tensor:
        """The whole tensor, from the parts of all processes, each of which calls this."""
        first = own.movedim(dim, 0)
        sent = first.new_zeros(max(self.sizes), *first.shape[1:])  # parts of one size, which the backend needs
        sent[: len(first)] = first
        whole = first.new_empty(self.total, *first.shape[1:])
        for spans, found in zip(self.spans, self.axis.gather(sent), strict=True):
            at = 0
            for start, stop in spans:
                whole[start:stop] = found[at : at + stop - start]
                at += stop - start
        return whole.movedim(0, dim).contiguous()


def even(axis: Axis, size: int, unit: int = 1) -> Cut:
    """A cut of ``size`` indices into ranges of about equally many units of ``unit`` indices."""
    ends = [0]
    each, more = divmod(size // unit, axis.size)
    for part in range(axis.size):
        ends.append(ends[-1] + unit * (each + (part < more)))
    return Cut(axis, tuple(((start, stop),) for start, stop in zip(ends, ends[1:], strict=False)))


class Part(Protocol):
    """How this process holds a weight of which other processes hold parts."""

    @property
    def is_split(self) -> bool:
        """Whether each process of the tensor group has other elements of the weight."""
        ...

    @property
    def counts(self) -> bool:
        """Whether this process's stage of a pipeline is the one that counts the weight in sums over the stages."""
        ...

    def own(self, whole: Tensor) -> Tensor: ...

    def whole(self, own: Tensor) -> Tensor:
        """All processes that hold parts of one model call this."""
        ...

    def joined(self, gradient: Tensor) -> Tensor:
        """The sum of the gradients of all stages that hold the weight, each of which has a part of its uses."""
        ...

    def elements(self, own: Tensor) -> int:
        """How many elements the whole weight has."""
        ...


@dataclass(frozen=True, slots=True)
class Piece:
    """A weight of which every process of a tensor group holds a part."""

    cut: Cut
    dim: int
    is_split: ClassVar[bool] = True
    counts: ClassVar[bool] = True

    def own(self, whole: Tensor) -> Tensor:
        return self.cut.own(whole, self.dim)

    def whole(self, own: Tensor) -> Tensor:
        return self.cut.whole(own, self.dim)

    def joined(self, gradient: Tensor) -> Tensor:
        return gradient

    def elements(self, own: Tensor) -> int:
        return own.numel() // max(1, own.shape[self.dim]) * self.cut.total


def hold_part(layer: nn.Module, name: str, piece: Piece, made: dict[int, nn.Parameter]) -> None:
    """Replace a whole weight of ``layer`` by this process's part.

    ``made`` has the parts made so far, by the id of the whole weight, so that tied weights stay tied. A caller keeps
    the whole weights alive until all parts are made.
    """
    whole = layer.get_parameter(name)
    if id(whole) not in made:
        made[id(whole)] = nn.Parameter(piece.own(whole.detach()), requires_grad=whole.requires_grad)
    layer._parameters[name] = made[id(whole)]
    vars(layer).setdefault(CUTS, {})[name] = piece
    vars(layer).setdefault(WHOLE, {})[name] = whole.numel()


def _cut_weights(module: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Parameter, Part]]:
    for layer in module.modules():
        for name, piece in vars(layer).get(CUTS, {}).items():
            weight = layer._parameters[name]
            assert weight is not None
            yield layer, name, weight, piece


def pieces_of(module: nn.Module) -> dict[int, Part]:
    """The weights of ``module`` that are parts, by the id of the parameter."""
    return {id(weight): piece for _, _, weight, piece in _cut_weights(module)}


def elements(parameter: Tensor, pieces: Mapping[int, Part]) -> int:
    """How many elements the weight has on all processes together."""
    piece = pieces.get(id(parameter))
    return parameter.numel() if piece is None else piece.elements(parameter)


def weights_of(module: nn.Module) -> int:
    """The number of weights of the whole ``module``."""
    pieces = pieces_of(module)
    return sum(elements(p, pieces) for p in module.parameters()) + hidden_weights(module)


@torch.no_grad()
def whole_copy(module: M, keep: bool = True) -> M | None:
    """A copy of ``module`` with whole weights, for the processes that ``keep`` it. All that hold parts call this."""
    twin = copy.deepcopy(module) if keep else module
    made: dict[int, tuple[nn.Parameter, nn.Parameter]] = {}  # part and whole weight, by the id of the part
    for layer, name, part, piece in list(_cut_weights(twin)):
        if id(part) not in made:
            whole = piece.whole(part.detach())
            if not keep:
                whole = whole[:0]
            made[id(part)] = part, nn.Parameter(whole, requires_grad=part.requires_grad)
        if keep:
            layer._parameters[name] = made[id(part)][1]
    for layer in twin.modules() if keep else ():
        vars(layer).pop(CUTS, None)
    return twin if keep else None


def mapped(state: Mapping[Any, Any], piece_of: Mapping[Any, Part], make: str) -> dict[Any, Any]:
    """``state``, a dict of tensors or of dicts of tensors, with ``Part.own`` or ``Part.whole`` done to each tensor.

    ``piece_of`` has the parts by the keys of ``state``. Tensors without a dimension, such as an optimizer's number of
    steps, stay as they are.
    """

    def of(piece: Part, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: of(piece, item) for name, item in value.items()}
        return getattr(piece, make)(value) if isinstance(value, Tensor) and value.ndim else value

    return {key: of(piece_of[key], value) if key in piece_of else value for key, value in state.items()}
