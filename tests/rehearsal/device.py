"""The block in which PyTorch claims to have a GPU."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _foreach_utils

from tests.rehearsal.tensor import GPU, GpuTensor, destination, is_gpu, to_device
from tests.rehearsal.waits import Waits, counting, wait

MEMORY = 24 * 2**30  # bytes that the GPU claims to have
# Factories that read their numbers from Python's own values: CUDA copies them from the processor and waits.
FROM_PYTHON = (torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor)
# Functions that may take tensors of both devices.
MIXES = (Tensor.copy_, Tensor.to, Tensor.type_as, Tensor.__deepcopy__)
_HOST_GENERATOR = torch.Generator


class Mode(TorchFunctionMode):
    """Sees every call of PyTorch in this thread: makes tensors on the GPU, and refuses calls that mix devices."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.to and not isinstance(args[0], GpuTensor):
            device, settings = destination(args[1:], kwargs)
            if is_gpu(device):
                non_blocking = settings.pop("non_blocking", False)
                moved = to_device(args[0], non_blocking)
                return func(moved, **settings) if settings else moved
        elif func is Tensor.cuda and not isinstance(args[0], GpuTensor):
            return to_device(args[0], kwargs.get("non_blocking", False))
        elif func is Tensor.pin_memory and not isinstance(args[0], GpuTensor):
            return args[0].clone()
        elif (
            func is torch._has_compatible_shallow_copy_type
        ):  # asked by Module.to: whether ``p.data = moved`` would work
            return isinstance(args[0], GpuTensor) == isinstance(args[1], GpuTensor) and func(*args)
        else:
            _refuse_mixture(func, args, kwargs)
            if kwargs.get("device") is not None:
                return _made(func, args, kwargs)
            if func is Tensor.new_tensor and isinstance(args[0], GpuTensor):
                wait("blocking copy to the GPU")
        return func(*args, **kwargs)


def _made(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The tensor of a factory that was told its device."""
    device = torch.device(kwargs.pop("device"))
    on_gpu = device.type == "cuda"
    wants_gradient = kwargs.pop("requires_grad", False)
    _check_generator(kwargs.get("generator"), on_gpu)
    out = func(*args, device="cpu" if on_gpu else device, **kwargs)
    if on_gpu and not isinstance(out, GpuTensor):
        if func in FROM_PYTHON and out.numel():
            wait("blocking copy to the GPU")
        out = GpuTensor(out.clone() if func in (torch.as_tensor, torch.asarray) else out)
    elif not on_gpu and isinstance(out, GpuTensor):
        out = out.inner
    return out.requires_grad_() if wants_gradient else out


def _check_generator(generator: torch.Generator | None, on_gpu: bool) -> None:
    if generator is not None and (generator.device.type == "cuda") != on_gpu:
        wanted = "cuda" if on_gpu else "cpu"
        raise RuntimeError(f"Expected a '{wanted}' device type for generator but found '{generator.device.type}'")


def _refuse_mixture(func: Any, args: Any, kwargs: dict[str, Any]) -> None:
    on_gpu = False
    host = []
    for x in _tensors((*args, *kwargs.values()) if kwargs else args):
        if isinstance(x, GpuTensor):
            on_gpu = True
        elif x.dim() > 0:
            host.append(x)
    if not on_gpu or not host or func in MIXES:
        return
    if func in (Tensor.__getitem__, Tensor.__setitem__):
        host = _wrong_in_index(func, args)
    if host:
        name = getattr(func, "__name__", str(func))
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! "
            f"(when calling {name})"
        )


def _wrong_in_index(func: Any, args: Any) -> list[Tensor]:
    """Tensors of the CPU that ``args[0][args[1]]``, or an assignment to it, may not have."""
    indices = list(_tensors((args[1],)))
    if not isinstance(args[0], GpuTensor):
        if any(isinstance(x, GpuTensor) for x in indices):
            raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
        return []
    if func is Tensor.__getitem__ or not indices:  # an assignment to a slice is a copy between devices
        return []
    return [x for x in _tensors(args[2:]) if not isinstance(x, GpuTensor) and x.numel() > 1]


def _tensors(values: Any) -> Iterator[Tensor]:
    for x in values:
        if isinstance(x, Tensor):
            yield x
        elif isinstance(x, (list, tuple)):
            yield from _tensors(x)


class Generator(_HOST_GENERATOR):
    """Random numbers of either device; those of the GPU are drawn on the CPU."""

    def __new__(cls, device: Any = "cpu") -> Generator:
        made = super().__new__(cls, device="cpu")
        made.claims = GPU if is_gpu(device) else torch.device("cpu")
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.claims


class Autocast(torch.autocast):
    """Autocast on the GPU, which here follows the CPU's list of operations."""

    def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(_host(device_type), *args, **kwargs)


def _host(device_type: str) -> str:
    return "cpu" if device_type == "cuda" else device_type


def _on_host(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` of a type of device, asked about the CPU in place of the GPU."""

    def ask(*args: Any) -> Any:
        return function(*map(_host, args))

    return ask


_apply = nn.Module._apply


def _applied(self: nn.Module, fn: Any, recurse: bool = True) -> nn.Module:
    """``Module._apply``, after which parameters that modules shared are shared again.

    On a real GPU a parameter stays the same object and gets new data. Here a parameter of the GPU is a new object.
    """
    places: defaultdict[int, list[tuple[nn.Module, str]]] = defaultdict(list)
    kept = []  # so that no id is given twice
    for module in self.modules():
        for name, p in module._parameters.items():
            if p is not None:
                places[id(p)].append((module, name))
                kept.append(p)
    _apply(self, fn, recurse)
    for (first, name), *others in places.values():
        for module, other in others:
            module._parameters[other] = first._parameters[name]
    return self


_group = torch._C._group_tensors_by_device_and_dtype


def _grouped(tensors: Any, with_indices: bool = False) -> Any:
    """The groups of PyTorch's own function, which sees the CPU, under the device that the tensors claim."""
    groups = _group(tensors, with_indices)
    claimed = {}
    for (device, dtype), (columns, indices) in groups.items():
        on_gpu = any(isinstance(x, GpuTensor) for column in columns for x in column)
        claimed[GPU if on_gpu else device, dtype] = (columns, indices)
    return claimed


def _cuda(waits: Waits) -> dict[str, Any]:
    """What ``torch.cuda`` says in the block."""
    facts = SimpleNamespace(name="rehearsal", total_memory=MEMORY, major=9, minor=0, multi_processor_count=1)
    return {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "_lazy_init": lambda: None,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "get_device_name": lambda device=None: facts.name,
        "get_device_properties": lambda device=None: facts,
        "get_device_capability": lambda device=None: (facts.major, facts.minor),
        "is_bf16_supported": lambda *args, **kwargs: True,
        "is_current_stream_capturing": lambda: False,
        "mem_get_info": lambda device=None: (MEMORY, MEMORY),
        "memory_allocated": lambda device=None: 0,
        "max_memory_allocated": lambda device=None: 2**20,
        "reset_peak_memory_stats": lambda device=None: None,
        "empty_cache": lambda: None,
        "synchronize": lambda device=None: waits.add("torch.cuda.synchronize"),
        "get_rng_state": lambda device=None: torch.get_rng_state(),
        "set_rng_state": lambda state, device=None: torch.set_rng_state(state),
        "manual_seed_all": lambda seed: None,
    }


@contextmanager
def rehearsal() -> Iterator[Waits]:
    """The block with the test device. Gives the waits that were counted so far."""
    waits = Waits()
    with (
        patch.multiple(torch.cuda, **_cuda(waits)),
        patch.multiple(
            torch,
            Generator=Generator,
            autocast=Autocast,
            is_autocast_enabled=_on_host(torch.is_autocast_enabled),
            get_autocast_dtype=_on_host(torch.get_autocast_dtype),
        ),
        patch.object(nn.Module, "_apply", _applied),
        patch.object(torch._C, "_group_tensors_by_device_and_dtype", _grouped),
        patch.object(_foreach_utils, "_foreach_supported_types", [*_foreach_utils._foreach_supported_types, GpuTensor]),
        counting(waits),
        Mode(),
    ):
        yield waits
