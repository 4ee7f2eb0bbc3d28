"""Weights that are numbers: NaN or infinity in a file is said at once, before anything is computed with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from concordant.core.errors import UserError


def refuse_not_finite(place: Path | str, weights: Mapping[str, torch.Tensor]) -> None:
    """UserError that names the weights in which a number is NaN or infinite."""
    broken = [name for name, w in weights.items() if w.numel() and not all(e.isfinite() for e in w.detach().aminmax())]
    if broken:
        more = f", … ({len(broken)} in all)" if len(broken) > 3 else ""
        raise UserError(
            f'"{place}" has NaN or infinite weights: {", ".join(broken[:3])}{more}. The run that wrote them went '
            "wrong, or the file is damaged: take an earlier checkpoint of it"
        )
