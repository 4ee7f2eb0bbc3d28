"""The average of several models' weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]  # by name


def averaged(models: Sequence[Weights]) -> dict[str, Tensor]:
    """θ = 1/M Σ_m θ_m for every tensor of numbers.  WARM, Ramé et al. 2024, 2401.12187 §3.

    Models that were trained from one start lie in one valley of the loss, so their average is good too, and what only
    one of them learnt by heart counts 1/M. Tensors of whole numbers are not averaged; the first model's are kept.
    """
    return {
        name: torch.stack([model[name].double() for model in models]).mean(0).to(first.dtype)
        if first.is_floating_point()
        else first
        for name, first in models[0].items()
    }


def cosine(a: Weights, b: Weights, names: Iterable[str]) -> float:
    """The cosine of the angle between the tensors ``names`` of two models, each taken as one long vector; 0 without
    any length. Models of one start have nearly 1, and models of different random starts have nearly 0."""
    listed = list(names)
    products = [
        sum(float((x[name].double() * y[name].double()).sum()) for name in listed) for x, y in ((a, b), (a, a), (b, b))
    ]
    return products[0] / (products[1] * products[2]) ** 0.5 if products[1] * products[2] > 0 else 0.0
