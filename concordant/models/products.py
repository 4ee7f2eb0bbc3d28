"""Matrix products by oneDNN: in fp32 where PyTorch's BLAS leaves half of the processor idle, in bf16 on every CPU.

PyTorch's BLAS is MKL, which on AMD's processors does not use AVX-512; oneDNN, part of the same PyTorch, does, and on
a Zen 5 multiplies twice as fast. PyTorch hands it fp32 products only where they may be rounded to bf16, but oneDNN
rounds on units of AMX alone and elsewhere multiplies in full. ``_is_exact`` asks for it and looks at the numbers: where
they are rounded all stays with MKL.

oneDNN compiles code for every shape it meets, milliseconds and half a MiB each, and packed rows have a new length each
time. So rows are multiplied in blocks of few sizes, the last one filled up with zeros.

N rows, I and O sizes of input and output.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache, partial
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from concordant.core.seeding import torch_stream

BLOCKS = (512, 128)  # rows multiplied at once
TAILS = (16, 32, 64, 128)  # what is left is filled up to one of these
LEAST = 2**23  # multiplications in fp32 from which a block's detour through Python is worth it
TOLERANCE = 1e-5  # of the product's size: fp32 gives 1e-7, factors rounded to bf16 3e-3
CPUINFO = Path("/proc/cpuinfo")

_onednn: Any = torch.backends.mkldnn
_lock, _inside, _before = Lock(), 0, "none"


def multiply(a_NI: Tensor, b_IO: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """a b + bias, where autograd does not look."""
    product = torch.mm if bias_O is None else partial(torch.addmm, bias_O)
    if not _suits(a_NI, b_IO):
        return product(a_NI, b_IO)
    out_NO = a_NI.new_empty(len(a_NI), b_IO.shape[1])
    with _by_onednn():
        for rows, size in _blocks(len(a_NI)):
            out = out_NO[rows]
            whole = out if len(out) == size else out.new_empty(size, out.shape[1])
            product(_filled(a_NI[rows], size), b_IO, out=whole)
            if whole is not out:
                out.copy_(whole[: len(out)])
    return out_NO


def in_known_shape(x_TI: Tensor, product: Callable[[Tensor], Tensor]) -> Tensor:
    """``product`` of all rows, filled up to one of few numbers of them, (T, O)."""
    x_NI = x_TI.flatten(0, -2)
    size = _tail(len(x_NI)) or -(-len(x_NI) // TAILS[-1]) * TAILS[-1]
    return product(_filled(x_NI, size))[: len(x_NI)].unflatten(0, x_TI.shape[:-1])


def add_multiplied(sum_IO: Tensor, a_NI: Tensor, b_NO: Tensor, fresh: bool = False) -> None:
    """sum += aᵀ b, in place; ``fresh``: whatever ``sum`` holds does not count. The sum of bf16 factors may be fp32."""
    suits = _suits(a_NI, b_NO)
    with _by_onednn() if suits else nullcontext():
        for rows, size in _blocks(len(a_NI)) if suits else [(slice(None), len(a_NI))]:
            a, b = (_filled(x_N[rows], size) for x_N in (a_NI, b_NO))
            if a.dtype == sum_IO.dtype:
                sum_IO.addmm_(a.t(), b, beta=0 if fresh else 1)
            elif fresh:
                sum_IO.copy_(a.t() @ b)
            else:
                sum_IO.add_(a.t() @ b)
            fresh = False


def _suits(a_NI: Tensor, b: Tensor) -> bool:
    """``b`` (I, O) or (N, O). In bf16 PyTorch itself leaves products to oneDNN, in whatever shape they come."""
    if not (a_NI.device.type == b.device.type == "cpu" and a_NI.dtype == b.dtype and _onednn.enabled):
        return False
    if a_NI.dtype == torch.bfloat16:
        return len(a_NI) > 0 and bool(_onednn.is_available())
    is_large = len(a_NI) >= TAILS[0] and len(a_NI) * a_NI.shape[1] * b.shape[1] >= LEAST
    return is_large and a_NI.dtype == torch.float32 and _faster()


def _blocks(count: int) -> Iterator[tuple[slice, int]]:
    """Rows of each block, and how many to fill it up to."""
    at = 0
    while at < count:
        left = count - at
        size = next((b for b in BLOCKS if left >= b), 0) or _tail(left)
        yield slice(at, at + size), size
        at += size


def _tail(count: int) -> int:
    """0 where there are more rows than any has."""
    return next((t for t in TAILS if t >= count), 0)


def _filled(x_NI: Tensor, size: int) -> Tensor:
    if len(x_NI) == size:
        return x_NI
    filled = x_NI.new_zeros(size, x_NI.shape[1])
    filled[: len(x_NI)] = x_NI
    return filled


@contextmanager
def _by_onednn() -> Iterator[None]:
    """The setting is the process's; attention, whose many small products come in every shape, is to go without."""
    global _inside, _before
    with _lock:
        if not _inside:
            _before = _onednn.matmul.fp32_precision
        _inside += 1
        _onednn.matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                _onednn.matmul.fp32_precision = _before


@cache
def _faster() -> bool:
    """Decided by the processor's name and not by a clock: the same machine is to give the same bits."""
    return (
        torch.backends.cpu.get_cpu_capability() == "AVX512"
        and torch.backends.mkl.is_available()
        and _onednn.is_available()
        and _is_amd()
        and _is_exact()
    )


def _is_amd() -> bool:
    text = CPUINFO.read_text(errors="replace") if CPUINFO.exists() else platform.processor()
    return "AuthenticAMD" in text


def _is_exact() -> bool:
    stream = torch_stream(0, "models/products")
    a, b = (torch.randn(size, size, generator=stream) for size in (256, 256))
    factors = [(a, b), (a, b.t()), (a.t(), b)]
    with _by_onednn():
        products = [x @ y for x, y in factors]
    exact = [x.double() @ y.double() for x, y in factors]
    return all(
        torch.allclose(given.double(), wanted, rtol=0, atol=TOLERANCE * wanted.abs().max().item())
        for given, wanted in zip(products, exact, strict=True)
    )
