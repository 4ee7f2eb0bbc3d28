"""A weight that some stages of a pipeline hold, and how it becomes whole again for every file.

A stage that does not hold a weight has an empty tensor under the same name. So the weights of all stages have the same
names in the same order, and everything that reads weights by name or number needs to know nothing of stages.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from concordant.core.axis import Chain
from concordant.engines.tensor.cuts import CUTS, Part
from concordant.kernels.replaced import WHOLE


@dataclass(frozen=True, slots=True)
class Held:
    """A weight that the stages ``owners`` hold; the first of them counts it.

    ``shape`` and ``size`` are those of what an owner holds, and the number of elements of the whole weight. ``within``
    says how the tensor group of each stage splits the weight.
    """

    chain: Chain
    owners: tuple[int, ...]
    shape: torch.Size
    size: int
    within: Part | None = None

    @property
    def is_here(self) -> bool:
        return self.chain.rank in self.owners

    @property
    def is_split(self) -> bool:
        return self.within is not None and self.within.is_split

    @property
    def counts(self) -> bool:
        return self.chain.rank == self.owners[0]

    def own(self, whole: Tensor) -> Tensor:
        part = whole if self.within is None else self.within.own(whole)
        return part if self.is_here else part.new_empty(empty(part.shape))

    def whole(self, own: Tensor) -> Tensor:
        part = self.everywhere(own)
        return part if self.within is None else self.within.whole(part)

    def everywhere(self, own: Tensor) -> Tensor:
        """What an owner holds, on every stage."""
        return self.chain.of(own if self.is_here else own.new_empty(self.shape), self.owners[0])

    def joined(self, gradient: Tensor) -> Tensor:
        if len(self.owners) == 1:
            return gradient
        total = self.chain.sum(gradient if self.is_here else gradient.new_zeros(self.shape))
        return total if self.is_here else gradient

    def elements(self, own: Tensor) -> int:
        return self.size


def empty(shape: torch.Size) -> tuple[int, ...]:
    """The shape of a weight that a stage does not hold."""
    return (0, *shape[1:])


def counted(
    named: Mapping[str, Tensor], pieces: Mapping[int, Part]
) -> tuple[dict[str, Tensor], dict[str, tuple[int, int]]]:
    """The weights by name, empty where another stage counts them, and for each the range (0, elements of an owner)."""
    here, ranges = {}, {}
    for name, weight in named.items():
        part = pieces[id(weight)]
        assert isinstance(part, Held)
        here[name], ranges[name] = weight if part.counts else weight.detach()[:0], (0, part.shape.numel())
    return here, ranges


def hold(layer: nn.Module, name: str, held: Held, made: dict[int, nn.Parameter]) -> None:
    """Keep a weight of ``layer``, or put an empty one in its place.

    ``made`` has the empty weights made so far, by the id of the weight, so that tied weights stay tied. A caller keeps
    the weights alive until all are done.
    """
    weight = layer.get_parameter(name)
    vars(layer).setdefault(CUTS, {})[name] = held
    vars(layer).setdefault(WHOLE, {}).setdefault(name, held.size)
    if held.is_here:
        return
    if id(weight) not in made:
        made[id(weight)] = nn.Parameter(weight.new_empty(empty(weight.shape)), requires_grad=weight.requires_grad)
    layer._parameters[name] = made[id(weight)]
