"""Other kinds of LoRA: DoRA's magnitudes, PiSSA's start, and adapters made of several others.

DoRA (Liu et al. 2024, 2402.09353): each row of the adapted weight is scaled to a trained length,
W' = m / ‖W + s B A‖ · (W + s B A), with a norm for every output. PiSSA (Meng et al. 2024, 2404.02948): A and B begin as
the greatest singular directions of W, and the frozen base keeps the rest. In PEFT's words: ``use_dora`` and
``init_lora_weights="pissa"``.

O outputs, I inputs, r rank of an adapter, s its scaling.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from concordant.core.errors import UserError

CAT, LINEAR, SVD = "cat", "linear", "svd"  # PEFT's names of ways to combine adapters


def row_lengths(weight_OI: Tensor) -> Tensor:
    """The length of each row, (O,), in fp32."""
    return torch.linalg.vector_norm(weight_OI.float(), dim=1)


def principal(weight_OI: Tensor, rank: int, scaling: float) -> tuple[Tensor, Tensor]:
    """A (r, I) and B (O, r) such that s B A is the best approximation of the weight by a matrix of this rank.

    UserError if the weight has no so many directions.
    """
    if rank > min(weight_OI.shape):
        raise UserError(
            f"LoRA rank {rank}: a layer of {weight_OI.shape[1]} inputs and {weight_OI.shape[0]} outputs has "
            f"{min(weight_OI.shape)} singular values; PiSSA needs a rank of so many at most"
        )
    left, value, right = torch.linalg.svd(weight_OI.float(), full_matrices=False)
    root_r = (value[:rank] / scaling).sqrt()
    return root_r[:, None] * right[:rank], left[:, :rank] * root_r


@dataclass(frozen=True, slots=True)
class Factors:
    """An adapter as plain LoRA: its update is ``scaling`` · B A."""

    a_rI: Tensor
    b_Or: Tensor
    scaling: float

    @property
    def update_OI(self) -> Tensor:
        return self.scaling * self.b_Or @ self.a_rI


def without_start(now: Factors, start: tuple[Tensor, Tensor]) -> Factors:
    """The change since ``start`` as an adapter of twice the rank, over the base as it was before PiSSA.

    B A - B₀ A₀ = [B, -B₀] [A; A₀], which is PEFT's conversion too.
    """
    a_rI, b_Or = start
    return Factors(torch.cat([now.a_rI, a_rI]), torch.cat([now.b_Or, -b_Or], 1), now.scaling)


def concatenated(parts: Sequence[tuple[float, Factors]]) -> Factors:
    """Σ weight · update, exactly: its rank is the sum of the ranks."""
    return Factors(
        torch.cat([weight * part.scaling * part.a_rI for weight, part in parts]),
        torch.cat([part.b_Or for _, part in parts], 1),
        1.0,
    )


def added(parts: Sequence[tuple[float, Factors]]) -> Factors:
    """The sums of all A and of all B, each part with the root of its weight: no more than a mixture of the updates.

    UserError if the ranks differ.
    """
    if len({len(part.a_rI) for _, part in parts}) > 1:
        raise UserError('adapters of different ranks cannot be added A to A: use "cat", or "svd"')
    roots = [(weight * part.scaling, part) for weight, part in parts]
    a = sum(math.copysign(math.sqrt(abs(root)), root) * part.a_rI for root, part in roots)
    b = sum(math.sqrt(abs(root)) * part.b_Or for root, part in roots)
    assert isinstance(a, Tensor) and isinstance(b, Tensor)
    return Factors(a, b, 1.0)


def reduced(parts: Sequence[tuple[float, Factors]]) -> Factors:
    """The best approximation of Σ weight · update whose rank is the greatest of the ranks."""
    update = sum(weight * part.update_OI for weight, part in parts)
    assert isinstance(update, Tensor)
    rank = max(len(part.a_rI) for _, part in parts)
    left, value, right = torch.linalg.svd(update, full_matrices=False)
    return Factors(right[:rank], left[:, :rank] * value[:rank], 1.0)


COMBINATIONS: dict[str, Callable[[Sequence[tuple[float, Factors]]], Factors]] = {
    CAT: concatenated,
    LINEAR: added,
    SVD: reduced,
}
