"""``Ranks`` over torch.distributed: gloo between CPUs, NCCL between GPUs.

The processes form a mesh, pipeline × data × tensor.
"""

from __future__ import annotations

from collections import deque
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from concordant.core.axis import Axis, Chain, NoAxis, NoChain
from concordant.core.shards import shards_of_rank, tree_sum

IN_FLIGHT = 4  # times the processes of a chain: so many tensors may be on their way before a process waits


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


class TorchChain(TorchAxis):
    """``Chain`` over a line of the mesh.

    Each direction has a group of its own: NCCL does the calls of a group one after another, so that two neighbours that
    both send first would wait for each other.
    """

    def __init__(self, lines: list[list[int]], timeout: timedelta) -> None:
        super().__init__(lines, timeout)
        for processes in lines:
            groups = [dist.new_group(processes, timeout=timeout) for _ in range(2)]
            if dist.get_rank() in processes:
                self._groups = groups
        self._sent: deque[tuple[Any, Tensor]] = deque()  # a tensor must live until it was taken

    def of(self, x: Tensor, place: int) -> Tensor:
        x = x.contiguous() if place == self.rank else torch.empty_like(x, memory_format=torch.contiguous_format)
        dist.broadcast(x, self.processes[place], group=self.sums)
        return x

    def pass_on(self, x: Tensor, backwards: bool) -> None:
        x = x.detach().contiguous()
        to = self.processes[self.rank + (-1 if backwards else 1)]
        self._sent.append((dist.isend(x, to, group=self._groups[backwards]), x))
        while len(self._sent) > IN_FLIGHT * self.size:
            self._sent.popleft()[0].wait()

    def take(self, like: Tensor, backwards: bool) -> Tensor:
        x = torch.empty_like(like, memory_format=torch.contiguous_format)
        dist.recv(x, self.processes[self.rank + (1 if backwards else -1)], group=self._groups[backwards])
        return x

    def settle(self) -> None:
        while self._sent:
            self._sent.popleft()[0].wait()


class TorchRanks:
    """The processes of torch.distributed's default process group, which must be initialised, as a mesh.

    ``rank`` and ``size`` are those of the data axis. With ``shards`` given, the order of every sum is fixed; otherwise
    the backend sums.
    """

    def __init__(self, shards: int, timeout: timedelta) -> None:
        self._timeout = timeout
        self._lines: dict[tuple[int, int], tuple[_Line, Axis, Chain]] = {}  # by the sizes of tensor and pipeline
        self._meshes: dict[tuple[str, int, int], DeviceMesh] = {}  # the data axis, by device and the same sizes
        self.use_mesh(shards, 1)

    def use_mesh(
        self, shards: int, tensor: int, sharded: bool = False, pipeline: int = 1, offload: bool = False
    ) -> None:
        """Cut batches into ``shards`` parts, layers into ``tensor`` parts, and the list of layers into ``pipeline``.

        0 shards give every rank one part and leave the order of sums open. The processes of one tensor group have
        neighbouring numbers, so that they share a machine where several machines take part; those of a pipeline, which
        send least, are furthest apart. ``sharded``: learners that are made from now on split their weights over the
        ranks of the data axis. ``offload``: between uses, these parts are in the processor's memory.
        """
        key = tensor, pipeline
        if key not in self._lines:
            self._lines[key] = _mesh(tensor, pipeline, self._timeout)
        self._data, self.tensor, self.stages = self._lines[key]
        self.rank, self.size = self._data.rank, self._data.size
        self.shards, self.in_order = shards or self.size, shards > 0
        self.sharded, self.offload = sharded, offload
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
        key = device, self.tensor.size, self.stages.size
        if key not in self._meshes:
            self._meshes[key] = DeviceMesh.from_group(self._data.sums, device)
        return self._meshes[key]


def _mesh(tensor: int, pipeline: int, timeout: timedelta) -> tuple[_Line, Axis, Chain]:
    """This process's lines of the data, the tensor and the pipeline axis."""
    number = torch.arange(dist.get_world_size()).view(pipeline, -1, tensor)  # the processes at their places

    def lines(axis: int) -> list[list[int]]:
        return number.movedim(axis, -1).flatten(0, 1).tolist()

    data = _Line(lines(1), timeout)
    split: Axis = NoAxis() if tensor == 1 else TorchAxis(lines(2), timeout)
    return data, split, NoChain() if pipeline == 1 else TorchChain(lines(0), timeout)
