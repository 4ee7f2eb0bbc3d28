"""Matrix products by oneDNN: in fp32 on AMD's processors with AVX-512, in bf16 on every CPU.

PyTorch multiplies fp32 matrices with MKL, and MKL does not use AVX-512 on AMD's processors. oneDNN is part of the same
PyTorch and does use AVX-512. PyTorch can use oneDNN for fp32 products, but only by a setting of the whole process. This
setting would change the products of other threads. So this file calls two operators of PyTorch that always run oneDNN
and read no such setting: the operator that PyTorch's compiler uses for a linear layer, and the operator that computes
the gradient of such a layer's weight. On some processors (with AMX) oneDNN may round the factors. ``_is_exact`` checks
this once; if oneDNN rounds, all products stay with MKL.

oneDNN compiles code for every shape of a product, which costs time and memory, and packed rows have a new length each
time. So rows are multiplied in blocks of few sizes, and the last block is filled up with zeros.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from concordant.core.seeding import torch_stream

BLOCKS = (512, 256, 128)  # rows multiplied at once; the block does not change the bits of a row
SUMMED = (512, 128)  # rows whose gradients are summed at once; another choice would change the sum's rounding
TAILS = (16, 32, 64, 128)  # the remaining rows are filled up with zeros to one of these sizes
LEAST = 2**23  # multiplications in fp32; for fewer, splitting into blocks in Python costs more than oneDNN saves
TOLERANCE = 1e-5  # of the product's size: fp32 gives 1e-7, factors rounded to bf16 3e-3
CPUINFO = Path("/proc/cpuinfo")

_onednn: Any = torch.backends.mkldnn
_linear: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)  # x Wᵀ + b; None in a PyTorch without oneDNN
_weight_gradient: Any = getattr(torch.ops.aten, "mkldnn_linear_backward_weights", None)  # gᵀ x


def multiply(a_RI: Tensor, b_IO: Tensor, bias_O: Tensor | None = None, columns: int = 0) -> Tensor:
    """The product a b + bias, outside autograd.

    ``columns``: of the whole product, where ``b_IO`` is some columns of its factor. The whole product decides how its
    parts are computed, so that they have the bits of the whole.
    """
    if not _suits(a_RI, b_IO, a_RI.shape[1] * (columns or b_IO.shape[1])):
        return _plain(a_RI, b_IO, bias_O)
    parts = []
    for rows, size in _blocks(len(a_RI), BLOCKS):
        block = a_RI[rows]
        parts.append(_by_onednn(_filled(block, size), b_IO, bias_O)[: len(block)])
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def in_known_shape(x_TI: Tensor, product: Callable[[Tensor], Tensor]) -> Tensor:
    """``product`` of all rows, (T, O). Rows of zeros are added first, so that oneDNN sees few different shapes."""
    x_RI = x_TI.flatten(0, -2)
    size = _tail(len(x_RI)) or -(-len(x_RI) // TAILS[-1]) * TAILS[-1]
    return product(_filled(x_RI, size))[: len(x_RI)].unflatten(0, x_TI.shape[:-1])


def add_multiplied(sum_IO: Tensor | None, a_RI: Tensor, b_RO: Tensor, elements: int = 0) -> Tensor:
    """sum + aᵀ b; a given ``sum_IO`` is changed in place. For factors in bf16 the sum is kept in fp32.

    ``elements``: of the whole product, where this is a part of it.
    """
    suits = _suits(a_RI, b_RO, elements or a_RI.shape[1] * b_RO.shape[1])
    for rows, size in _blocks(len(a_RI), SUMMED) if suits else [(slice(None), len(a_RI))]:
        a, b = (_filled(x_R[rows], size) for x_R in (a_RI, b_RO))
        if sum_IO is not None and not suits and a.dtype == sum_IO.dtype:
            sum_IO.addmm_(a.t(), b)
            continue
        product_IO = _transposed_by_onednn(a, b) if suits else a.t() @ b
        sum_IO = product_IO.float() if sum_IO is None else sum_IO.add_(product_IO)
    assert sum_IO is not None  # even an input without rows makes one (empty) block
    return sum_IO


def _plain(a_RI: Tensor, b_IO: Tensor, bias_O: Tensor | None = None) -> Tensor:
    return a_RI @ b_IO if bias_O is None else torch.addmm(bias_O, a_RI, b_IO)


def _by_onednn(a_RI: Tensor, b_IO: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """a b + bias by oneDNN. In bf16 PyTorch's own product already uses oneDNN."""
    if a_RI.dtype != torch.float32:
        return _plain(a_RI, b_IO, bias_O)
    return _linear(a_RI, b_IO.t(), bias_O, "none", [], "")


def _transposed_by_onednn(a_RI: Tensor, b_RO: Tensor) -> Tensor:
    """aᵀ b by oneDNN.

    The linear layer's operator copies aᵀ with one thread. The operator for a weight's gradient needs no aᵀ, but copies
    both factors and the product. Both give the same bits, so the shape decides which copy is cheaper.
    """
    if a_RI.dtype == torch.float32 and a_RI.shape[1] > b_RO.shape[1]:
        weight = a_RI.new_empty(()).expand(a_RI.shape[1], b_RO.shape[1])  # only its shape is read
        return _weight_gradient(a_RI.to_mkldnn(), b_RO.to_mkldnn(), weight, False)[0]
    return _by_onednn(a_RI.t(), b_RO)


def _suits(a_RI: Tensor, b: Tensor, each: int) -> bool:
    """Whether oneDNN should compute this product; ``b`` is (I, O) or (R, O). ``each``: multiplications for each row.

    In bf16 PyTorch gives every product to oneDNN anyway, so here only the blocks of few sizes matter.
    """
    if not (a_RI.device.type == b.device.type == "cpu" and a_RI.dtype == b.dtype and _onednn.enabled):
        return False
    if a_RI.dtype == torch.bfloat16:
        return len(a_RI) > 0 and bool(_onednn.is_available())
    is_large = len(a_RI) >= TAILS[0] and len(a_RI) * each >= LEAST
    return is_large and a_RI.dtype == torch.float32 and _faster()


def _blocks(count: int, sizes: Sequence[int]) -> Iterator[tuple[slice, int]]:
    """The rows of each block of one of these ``sizes``, and the size to which the block is filled up."""
    at = 0
    while at < count:
        left = count - at
        size = next((b for b in sizes if left >= b), 0) or _tail(left)
        yield slice(at, at + size), size
        at += size


def _tail(count: int) -> int:
    """The smallest of ``TAILS`` that holds ``count`` rows; 0 where none does."""
    return next((t for t in TAILS if t >= count), 0)


def _filled(x_RI: Tensor, size: int) -> Tensor:
    if len(x_RI) == size:
        return x_RI
    filled = x_RI.new_zeros(size, x_RI.shape[1])
    filled[: len(x_RI)] = x_RI
    return filled


@cache
def _faster() -> bool:
    """Whether oneDNN multiplies fp32 faster here.

    The processor's name decides and not a measured time, so that one machine always gives the same bits.
    """
    return (
        torch.backends.cpu.get_cpu_capability() == "AVX512"
        and None not in (_linear, _weight_gradient)
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
    products.append(_transposed_by_onednn(a, b[:, :128]))  # wide enough for the other operator
    exact.append(a.t().double() @ b[:, :128].double())
    return all(
        torch.allclose(given.double(), wanted, rtol=0, atol=TOLERANCE * wanted.abs().max().item())
        for given, wanted in zip(products, exact, strict=True)
    )
