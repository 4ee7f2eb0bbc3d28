"""Matrix products by oneDNN: in fp32 where PyTorch's BLAS leaves half of the processor idle, in bf16 on every CPU.

PyTorch's BLAS is MKL, which does not use AVX-512 on AMD's processors. oneDNN is part of the same PyTorch and does use
it. PyTorch offers oneDNN for fp32 products behind a setting of the whole process, which would change the products of
other threads. So this file calls the operator that PyTorch's compiler uses for a linear layer on a CPU, which always
runs oneDNN and reads no such setting. ``_is_exact`` checks once that oneDNN does not round the factors on this
processor (it may on units of AMX); where it rounds, all products stay with MKL.

oneDNN compiles code for every shape of a product, which takes milliseconds and half a MiB each, and packed rows have a
new length each time. So rows are multiplied in blocks of few sizes, and the last block is filled up with zeros.

N rows, I and O sizes of input and output.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
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
_linear: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)  # x Wᵀ + b; None in a PyTorch without oneDNN


def multiply(a_NI: Tensor, b_IO: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """a b + bias, where autograd does not look."""
    if not _suits(a_NI, b_IO):
        return _plain(a_NI, b_IO, bias_O)
    parts = []
    for rows, size in _blocks(len(a_NI)):
        block = a_NI[rows]
        parts.append(_by_onednn(_filled(block, size), b_IO, bias_O)[: len(block)])
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def in_known_shape(x_TI: Tensor, product: Callable[[Tensor], Tensor]) -> Tensor:
    """``product`` of all rows, filled up to one of few numbers of them, (T, O)."""
    x_NI = x_TI.flatten(0, -2)
    size = _tail(len(x_NI)) or -(-len(x_NI) // TAILS[-1]) * TAILS[-1]
    return product(_filled(x_NI, size))[: len(x_NI)].unflatten(0, x_TI.shape[:-1])


def add_multiplied(sum_IO: Tensor | None, a_NI: Tensor, b_NO: Tensor) -> Tensor:
    """sum + aᵀ b, added to ``sum`` in place where one is given. The sum of bf16 factors is fp32."""
    suits = _suits(a_NI, b_NO)
    multiply_block = _by_onednn if suits else _plain
    for rows, size in _blocks(len(a_NI)) if suits else [(slice(None), len(a_NI))]:
        a, b = (_filled(x_N[rows], size) for x_N in (a_NI, b_NO))
        if sum_IO is None:
            sum_IO = multiply_block(a.t(), b).float()
        elif not suits and a.dtype == sum_IO.dtype:
            sum_IO.addmm_(a.t(), b)
        else:
            sum_IO.add_(multiply_block(a.t(), b))
    assert sum_IO is not None  # without rows there is one block, of no rows
    return sum_IO


def _plain(a_NI: Tensor, b_IO: Tensor, bias_O: Tensor | None = None) -> Tensor:
    return a_NI @ b_IO if bias_O is None else torch.addmm(bias_O, a_NI, b_IO)


def _by_onednn(a_NI: Tensor, b_IO: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """In bf16 PyTorch's own product is oneDNN's already."""
    if a_NI.dtype != torch.float32:
        return _plain(a_NI, b_IO, bias_O)
    return _linear(a_NI, b_IO.t(), bias_O, "none", [], "")


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


@cache
def _faster() -> bool:
    """Decided by the processor's name and not by a clock: the same machine is to give the same bits."""
    return (
        torch.backends.cpu.get_cpu_capability() == "AVX512"
        and _linear is not None
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
    products = [_by_onednn(x, y) for x, y in factors]
    exact = [x.double() @ y.double() for x, y in factors]
    return all(
        torch.allclose(given.double(), wanted, rtol=0, atol=TOLERANCE * wanted.abs().max().item())
        for given, wanted in zip(products, exact, strict=True)
    )
