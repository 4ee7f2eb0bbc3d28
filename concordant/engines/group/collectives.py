"""``Ranks`` over torch.distributed: gloo between CPUs, NCCL between GPUs."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from concordant.core.shards import shards_of_rank, tree_sum


class TorchRanks:
    """The ranks of torch.distributed's default process group, which must be initialised.

    ``sum`` takes whole vectors. With ``shards`` given, the order of every sum is fixed; otherwise the backend sums.
    """

    def __init__(self, shards: int, timeout: timedelta) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._sums = dist.new_group(timeout=timeout)
        self._values = dist.new_group(backend="gloo", timeout=timeout)  # plain values never go through a GPU
        self._meshes: dict[str, DeviceMesh] = {}  # by device
        self.use_shards(shards)

    def use_shards(self, shards: int, sharded: bool = False) -> None:
        """Cut batches into ``shards`` parts; 0 gives every rank one part and leaves the order of sums open.

        ``sharded``: learners that are made from now on split their weights over the ranks.
        """
        self.shards, self._in_order, self.sharded = shards or self.size, shards > 0, sharded
        shards_of_rank(self.shards, self.size, self.rank)  # refuses numbers that do not fit

    def sum(self, x: Tensor) -> Tensor:
        return self._sum_in_order(x) if self._in_order else self._sum(x)

    def _sum(self, x: Tensor) -> Tensor:
        dist.all_reduce(x, group=self._sums)
        return x

    def _sum_in_order(self, x: Tensor) -> Tensor:
        """Every rank adds up one slice of the vectors in the binary tree, and then the slices go to all ranks.

        This sends as many bytes as a ring all-reduce.
        """
        each = -(-x.numel() // self.size)
        sent = torch.nn.functional.pad(x, (0, each * self.size - x.numel()))
        slices = torch.empty_like(sent)
        dist.all_to_all_single(slices, sent, group=self._sums)
        own = tree_sum(slices.view(self.size, each), Tensor.add)
        dist.all_gather(list(sent.view(self.size, each).unbind()), own, group=self._sums)
        return sent[: x.numel()]

    def gather(self, value: Any) -> list[Any]:
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self._values)
        return values

    def mesh(self, device: str) -> DeviceMesh:
        if device not in self._meshes:
            self._meshes[device] = DeviceMesh.from_group(self._sums, device)
        return self._meshes[device]
