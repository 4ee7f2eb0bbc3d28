"""``Ranks`` over torch.distributed: gloo between CPUs, NCCL between GPUs. The processes form a mesh, data × tensor."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from concordant.core.axis import Axis, NoAxis
from concordant.core.shards import shards_of_rank, tree_sum


class _Line:
    """The processes of one line of the mesh, to which this process belongs."""

    def __init__(self, lines: list[list[int]], timeout: timedelta) -> None:
        """``lines`` are all lines in this direction, because every process has to make the groups of all of them."""
        for processes in lines:
            sums = dist.new_group(processes, timeout=timeout)
            values = dist.new_group(processes, backend="gloo", timeout=timeout)  # plain values never go through a GPU
            if dist.get_rank() in processes:
                self.sums, self._values, self.processes = sums, values, processes
        self.rank, self.size = self.processes.index(dist.get_rank()), len(self.processes)

    def __deepcopy__(self, memo: Any) -> _Line:
        return self  # a copy of a model has the same processes

    def values(self, value: Any) -> list[Any]:
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self._values)
        return values


class TorchAxis(_Line):
    """``Axis`` over a line of the mesh."""

    def sum(self, x: Tensor) -> Tensor:
        return self._reduced(x, dist.ReduceOp.SUM)

    def highest(self, x: Tensor) -> Tensor:
        return self._reduced(x, dist.ReduceOp.MAX)

    def _reduced(self, x: Tensor, how: Any) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, how, group=self.sums)
        return total

    def gather(self, x: Tensor) -> list[Tensor]:
        x = x.contiguous()
        found = [torch.empty_like(x) for _ in range(self.size)]
        dist.all_gather(found, x, group=self.sums)
        return found

    def first(self, x: Tensor) -> Tensor:
        x = x.clone(memory_format=torch.contiguous_format)
        dist.broadcast(x, self.processes[0], group=self.sums)
        return x


class TorchRanks:
    """The processes of torch.distributed's default process group, which must be initialised, as a mesh.

    ``rank`` and ``size`` are those of the data axis. With ``shards`` given, the order of every sum is fixed; otherwise
    the backend sums.
    """

    def __init__(self, shards: int, timeout: timedelta) -> None:
        self._timeout = timeout
        self._lines: dict[int, tuple[_Line, Axis]] = {}  # data and tensor axis, by the size of the tensor axis
        self._meshes: dict[tuple[str, int], DeviceMesh] = {}  # the data axis, by device and size of the tensor axis
        self.use_mesh(shards, 1)

    def use_mesh(self, shards: int, tensor: int, sharded: bool = False) -> None:
        """Cut batches into ``shards`` parts and layers into ``tensor`` parts.

        0 shards give every rank one part and leave the order of sums open. The processes of one tensor group have
        neighbouring numbers, so that they share a machine where several machines take part. ``sharded``: learners that
        are made from now on split their weights over the ranks of the data axis.
        """
        if tensor not in self._lines:
            self._lines[tensor] = _mesh(tensor, self._timeout)
        self._data, self.tensor = self._lines[tensor]
        self.rank, self.size = self._data.rank, self._data.size
        self.shards, self.in_order, self.sharded = shards or self.size, shards > 0, sharded
        shards_of_rank(self.shards, self.size, self.rank)  # refuses numbers that do not fit

    def sum(self, x: Tensor) -> Tensor:
        if self.size == 1:
            return x
        return self._sum_in_order(x) if self.in_order else self._sum(x)

    def _sum(self, x: Tensor) -> Tensor:
        dist.all_reduce(x, group=self._data.sums)
        return x

    def _sum_in_order(self, x: Tensor) -> Tensor:
        """Every rank adds up one slice of the vectors in the binary tree, and then the slices go to all ranks.

        This sends as many bytes as a ring all-reduce.
        """
        each = -(-x.numel() // self.size)
        sent = torch.nn.functional.pad(x, (0, each * self.size - x.numel()))
        slices = torch.empty_like(sent)
        dist.all_to_all_single(slices, sent, group=self._data.sums)
        own = tree_sum(slices.view(self.size, each), Tensor.add)
        dist.all_gather(list(sent.view(self.size, each).unbind()), own, group=self._data.sums)
        return sent[: x.numel()]

    def gather(self, value: Any) -> list[Any]:
        return self._data.values(value)

    def mesh(self, device: str) -> DeviceMesh:
        """The data axis as PyTorch's own mesh, for FSDP2."""
        key = device, self.tensor.size
        if key not in self._meshes:
            self._meshes[key] = DeviceMesh.from_group(self._data.sums, device)
        return self._meshes[key]


def _mesh(tensor: int, timeout: timedelta) -> tuple[_Line, Axis]:
    """This process's line of the data axis, and its line of the tensor axis."""
    count = dist.get_world_size()
    data = _Line([list(range(place, count, tensor)) for place in range(tensor)], timeout)
    if tensor == 1:
        return data, NoAxis()
    return data, TorchAxis([list(range(at, at + tensor)) for at in range(0, count, tensor)], timeout)
