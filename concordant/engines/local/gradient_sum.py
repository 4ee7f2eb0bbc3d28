"""Sums the gradients of shards in a fixed binary tree, over the shards of this rank and then over the ranks.

Between ranks the gradients go as one vector. Inside a rank at most log₂(shards) + 1 vectors wait to be added.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from concordant.core.seeding import derive
from concordant.core.shards import TreeSum
from concordant.engines.ranks import Ranks, own_shards
from concordant.engines.tensor.cuts import Part


class GradientSum:
    """Collects the gradient of every shard. ``finish`` gives ``parameters`` the sum over all shards of all ranks.

    A gradient that the parameters had before stays, and the sum is added to it. A parameter on which the loss of no
    shard depends gets no gradient. Random layers of a shard, such as dropout, draw from a stream of the shard; each
    stage of a pipeline has a stream of its own. ``pieces`` has the weights of which this process holds a part, by id.
    """

    def __init__(
        self, parameters: Sequence[Tensor], ranks: Ranks, seed: int, pieces: Mapping[int, Part] | None = None
    ) -> None:
        self.parameters, self.ranks, self.seed, self.pieces = parameters, ranks, seed, pieces or {}
        self._earlier = [p.grad for p in parameters]
        self._came = torch.zeros(len(parameters), dtype=torch.bool)
        self._sum: TreeSum[Tensor] = TreeSum(Tensor.add_)
        self._shards = iter(own_shards(ranks))
        self._clear()

    @contextmanager
    def of_shard(self) -> Iterator[None]:
        """The block computes the gradient of this rank's next shard."""
        cuda = [p.device for p in self.parameters[:1] if p.device.type == "cuda"]
        with torch.random.fork_rng(cuda):
            stage = self.ranks.stages.rank
            of_stage: tuple[str | int, ...] = ("stage", stage) if stage else ()
            torch.manual_seed(derive(self.seed, "shard", next(self._shards), *of_stage))
            yield
        self._came |= torch.tensor([p.grad is not None for p in self.parameters])
        parts = [p.new_zeros(p.numel()) if p.grad is None else p.grad.reshape(-1) for p in self.parameters]
        self._clear()
        self._sum.add(torch.cat(parts))

    def finish(self) -> None:
        """Sum over the ranks, and give every parameter its part."""
        total = self.ranks.sum(self._sum.total())
        came_W = torch.stack(self.ranks.gather(self._came)).any(0)
        came = torch.stack(self.ranks.stages.values(came_W)).any(0).tolist()
        parts = total.split([p.numel() for p in self.parameters])
        for p, part, has, earlier in zip(self.parameters, parts, came, self._earlier, strict=True):
            if has:
                gradient = torch.empty_like(p).copy_(part.view_as(p))  # in the weight's own layout in memory
                if id(p) in self.pieces:
                    gradient = self.pieces[id(p)].joined(gradient)
                p.grad = gradient if earlier is None else gradient.add_(earlier)
            else:
                p.grad = earlier

    def _clear(self) -> None:
        for p in self.parameters:
            p.grad = None
