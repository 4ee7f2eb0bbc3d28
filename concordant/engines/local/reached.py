"""How a gradient reached the tensors of a model, also where several processes hold the parts of a tensor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from concordant.engines.protocol import Reached


def reach(name: str, gradient: Tensor | None, is_trained: bool) -> Reached:
    if gradient is None:
        return Reached(name=name, is_trained=is_trained, came=False)
    is_finite = bool(torch.isfinite(gradient).all())
    return Reached(name=name, is_trained=is_trained, came=True, is_zero=not bool(gradient.any()), is_finite=is_finite)


def of_parts(parts: Sequence[Sequence[Reached]]) -> list[Reached]:
    """The rows of whole tensors from those of each process, all of which have the same tensors in the same order."""
    return [
        Reached(
            name=rows[0].name,
            is_trained=rows[0].is_trained,
            came=any(row.came for row in rows),
            is_zero=all(row.is_zero for row in rows),
            is_finite=all(row.is_finite for row in rows),
        )
        for rows in zip(*parts, strict=True)
    ]
