"""A tensor that lives on the CPU and claims to be on ``cuda:0``.

PyTorch's own code sees a CPU tensor, so autograd and every operation work without CUDA. Python code sees the device
``cuda:0``. A tensor that really had the device would need CUDA's libraries: autograd asks them for a stream.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from tests.rehearsal.waits import wait

GPU = torch.device("cuda", 0)
aten = torch.ops.aten

# Operations whose answer, or the size of whose answer, the processor has to read from the GPU.
READS = {
    aten._local_scalar_dense: "item()",
    aten.is_nonzero: "bool()",
    aten.equal: "torch.equal",
    aten.allclose: "torch.allclose",
    aten.nonzero: "nonzero",
    aten.masked_select: "masked_select",
    aten._unique: "unique",
    aten._unique2: "unique",
    aten.unique_dim: "unique",
    aten.unique_consecutive: "unique",
    aten.unique_dim_consecutive: "unique",
    aten.bincount: "bincount",
    aten.multinomial: "multinomial",
}
INDEXES = (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_)


class GpuTensor(Tensor):
    """``inner`` is the CPU tensor that holds the numbers."""

    inner: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: Tensor, requires_grad: bool = False) -> GpuTensor:
        made = Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            layout=inner.layout, device="cpu", requires_grad=requires_grad,
        )  # fmt: skip
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _may_wait(func):
            _count(func, args, kwargs)
        out = func(*_unwrap(args), **{name: _unwrap(value) for name, value in kwargs.items()})
        if type(out) is Tensor and not _is_mutable(func):
            return GpuTensor(out)
        given = {}
        if _is_mutable(func):  # an operation in place returns the tensor that it was given
            given = {id(_unwrap(x)): x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)}
        return _wrap(out, given)

    @property
    def device(self) -> torch.device:
        return GPU

    @property
    def is_cuda(self) -> bool:
        return True

    @property
    def is_cpu(self) -> bool:
        return False

    def get_device(self) -> int:
        return 0

    def cuda(self, *args: Any, **kwargs: Any) -> Tensor:
        return self

    def cpu(self, *args: Any, **kwargs: Any) -> Tensor:
        return to_host(self)

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        device, settings = destination(args, kwargs)
        settings.pop("non_blocking", None)
        moved: Any = self if device is None or device.type == "cuda" else to_host(self)
        return torch.Tensor.to(moved, **settings) if settings else moved

    def tolist(self) -> Any:
        wait("tolist()")
        return self.inner.tolist()

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            "can't convert cuda:0 device type tensor to numpy. "
            "Use Tensor.cpu() to copy the tensor to host memory first."
        )

    def pin_memory(self, *args: Any) -> Tensor:
        raise RuntimeError(f"cannot pin 'torch.cuda.{self.dtype}' only dense CPU tensors can be pinned")

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    def untyped_storage(self) -> Any:
        return self.inner.untyped_storage()

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if id(self) not in memo:
            copied = GpuTensor(self.inner.clone(), self.requires_grad)
            if getattr(self, "_is_param", False):
                copied._is_param = True  # type: ignore[attr-defined]
            if self.grad is not None:
                copied.grad = self.grad.clone()
            memo[id(self)] = copied
        return memo[id(self)]

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"{self.inner!r} on {GPU}"


class _ToHost(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # type: ignore[override]
        assert isinstance(x, GpuTensor)
        return x.inner.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return GpuTensor(grad)


class _ToDevice(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # type: ignore[override]
        return GpuTensor(x.detach().clone())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return grad.inner if isinstance(grad, GpuTensor) else grad


def to_host(x: Tensor) -> Tensor:
    """A copy on the CPU. The processor needs the numbers, so it waits, whatever ``non_blocking`` says."""
    wait("copy to the CPU")
    return _ToHost.apply(x)


def to_device(x: Tensor, non_blocking: bool = False) -> Tensor:
    """A copy on the GPU. A blocking copy waits until all earlier work of the GPU is done."""
    if not non_blocking and x.numel():
        wait("blocking copy to the GPU")
    return _ToDevice.apply(x)


def is_gpu(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"


def destination(args: Any, kwargs: Any) -> tuple[torch.device | None, dict[str, Any]]:
    """Where ``Tensor.to(*args, **kwargs)`` leads, and its other settings by name."""
    settings = dict(kwargs)
    names = ["dtype", "non_blocking", "copy"]
    other = settings.pop("other", None)
    rest = list(args)
    if rest and isinstance(rest[0], Tensor):
        other = rest.pop(0)
        names = names[1:]
    elif rest and not isinstance(rest[0], torch.dtype):
        settings["device"] = rest.pop(0)
    if other is not None:
        settings |= {"device": other.device, "dtype": other.dtype}
    settings |= dict(zip(names, rest, strict=False))
    device = settings.pop("device", None)
    return None if device is None else torch.device(device), {k: v for k, v in settings.items() if v is not None}


@cache
def _is_mutable(func: Any) -> bool:
    return func._schema.is_mutable


@cache
def _may_wait(func: Any) -> bool:
    return func.overloadpacket in (*READS, *INDEXES, aten.repeat_interleave, aten.copy_)


def _count(func: Any, args: Any, kwargs: Any) -> None:
    packet = func.overloadpacket
    if packet in READS:
        wait(READS[packet])
    elif packet is aten.repeat_interleave and kwargs.get("output_size") is None and func._overloadname != "self_int":
        wait("repeat_interleave")
    elif packet is aten.copy_:
        here, there = args[0], args[1]
        non_blocking = args[2] if len(args) > 2 else kwargs.get("non_blocking", False)
        if isinstance(here, GpuTensor) != isinstance(there, GpuTensor):
            if not isinstance(here, GpuTensor):
                wait("copy to the CPU")
            elif not non_blocking and there.dim() > 0:
                wait("blocking copy to the GPU")
    elif packet in INDEXES:
        _count_index(packet, args)


def _count_index(packet: Any, args: Any) -> None:
    indices = [i for i in args[1] if i is not None]
    if any(i.dtype in (torch.bool, torch.uint8) for i in indices):
        fills = packet is not aten.index and len(indices) == 1 and args[2].numel() == 1  # CUDA calls masked_fill then
        if not fills:
            wait("boolean index")
    elif isinstance(args[0], GpuTensor) and not all(isinstance(i, GpuTensor) for i in indices):
        wait("index from the CPU")


def _unwrap(x: Any) -> Any:
    if isinstance(x, GpuTensor):
        return x.inner
    if type(x) in (list, tuple):
        return type(x)([_unwrap(part) for part in x])
    return x


def _wrap(x: Any, given: dict[int, Tensor]) -> Any:
    if isinstance(x, Tensor):
        return given[id(x)] if id(x) in given else x if isinstance(x, GpuTensor) else GpuTensor(x)
    if isinstance(x, (list, tuple)):
        return type(x)(_wrap(part, given) for part in x)
    return x
