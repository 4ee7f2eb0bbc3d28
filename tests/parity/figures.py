"""What one side says of one comparison, and how far two sides are apart.

A gradient travels whole between two processes, and as a sketch in a committed golden: for each parameter its norm and
its product with two vectors of ±1 made by a formula. An error of norm e moves such a product by about e.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

PROBES = 2
Sketch = dict[str, list[float]]


@dataclass
class Figures:
    loss: float = math.nan
    metrics: dict[str, float] = field(default_factory=dict)
    gradient: dict[str, Tensor] = field(default_factory=dict)
    tokens: dict[str, list[float]] = field(default_factory=dict)  # a number a response token, in the case's order


def relative(ours: float, peer: float) -> float:
    """|ours - peer| / max(|peer|, 0.1): what is near 0 is a sum of terms of size 1, exact to fp32's 1e-7 of those."""
    return abs(ours - peer) / max(abs(peer), 0.1)


def vector_error(ours: list[float], peer: list[float]) -> float:
    """Norm of the difference over the norm of the peer's; infinite where the lengths differ."""
    if len(ours) != len(peer):
        return math.inf
    difference = math.sqrt(sum((a - b) ** 2 for a, b in zip(ours, peer, strict=True)))
    return difference / max(math.sqrt(sum(b * b for b in peer)), 1e-12)


def gradient_error(ours: Mapping[str, Tensor], peer: Mapping[str, Tensor]) -> float:
    """Norm of the difference over the norm of the peer's, all parameters together; infinite where names differ."""
    if set(ours) != set(peer):
        return math.inf
    difference = math.sqrt(sum(float((ours[n].double() - peer[n].double()).square().sum()) for n in peer))
    return difference / norm(peer)


def norm(gradient: Mapping[str, Tensor]) -> float:
    return math.sqrt(sum(float(g.double().square().sum()) for g in gradient.values()))


def sketch(gradient: Mapping[str, Tensor]) -> Sketch:
    """For each parameter [norm, the products]."""
    made = {}
    for name, g in sorted(gradient.items()):
        flat = g.double().flatten()
        products = [float((flat * _signs(flat.numel(), p)).sum()) for p in range(PROBES)]
        made[name] = [float(flat.norm()), *products]
    return made


def sketch_error(gradient: Mapping[str, Tensor], peer: Sketch) -> float:
    """Largest difference of any number of the sketch over the norm of the peer's gradient."""
    ours = sketch(gradient)
    if set(ours) != set(peer):
        return math.inf
    return max(abs(a - b) for n in peer for a, b in zip(ours[n], peer[n], strict=True)) / sketch_norm(peer)


def sketch_norm(of: Sketch) -> float:
    """The norm of the gradient that was sketched."""
    return math.sqrt(sum(row[0] ** 2 for row in of.values()))


def _signs(size: int, probe: int) -> Tensor:
    return torch.tensor([1.0 if math.sin((j + 1) ** 2 * 0.7548776662 + probe) > 0 else -1.0 for j in range(size)])


def as_golden(figures: Mapping[str, Figures]) -> dict[str, Any]:
    """For JSON: eight digits, gradients as sketches."""
    rows: dict[str, Any] = {}
    for name, f in figures.items():
        row: dict[str, Any] = {} if math.isnan(f.loss) else {"loss": _short(f.loss)}
        row |= {"metrics": {k: _short(v) for k, v in f.metrics.items()}} if f.metrics else {}
        row |= {"tokens": {k: [_short(x) for x in v] for k, v in f.tokens.items()}} if f.tokens else {}
        if f.gradient:
            row["gradient"] = {k: [_short(x) for x in v] for k, v in sketch(f.gradient).items()}
        rows[name] = row
    return rows


def _short(x: float) -> float:
    return float(f"{x:.8g}")


def save_gradients(figures: Mapping[str, Figures], path: Path) -> None:
    save_file({f"{name}|{p}": g.clone() for name, f in figures.items() for p, g in f.gradient.items()}, path)


def load_gradients(path: Path) -> dict[str, dict[str, Tensor]]:
    loaded: dict[str, dict[str, Tensor]] = {}
    for key, g in load_file(path).items():
        name, _, parameter = key.partition("|")
        loaded.setdefault(name, {})[parameter] = g
    return loaded
