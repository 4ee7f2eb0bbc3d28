"""How far an optimizer step moves the weights, from a sample of each tensor: what tells a rate that is too high from
one too low, and a part that learns from one that was left out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

SAMPLE = 4096  # elements of each tensor that are looked at, evenly spread
HEADS = ("score", "head", "classifier")  # modules that turn a hidden state into a number: reward model's and critic's


class WeightMotion:
    """Call ``before`` the optimizer's step and ``after`` it.

    What is meant to train is the adapters where there are any, with the head; else everything. A weight that is meant
    to and does not move is the finding, so frozen ones are looked at too.
    """

    def __init__(self, named: Iterable[tuple[str, Tensor]]) -> None:
        named = list(named)
        adapted = any("lora_" in name for name, _ in named)
        kept = [(n, p) for n, p in named if not adapted or "lora_" in n or _is_head(n)]
        self.is_head = torch.tensor([_is_head(name) for name, _ in kept])
        self.weights = [p for _, p in kept]

    @torch.no_grad()
    def before(self) -> list[Tensor]:
        return [_sample(p).clone() for p in self.weights]

    @torch.no_grad()
    def after(self, before: Sequence[Tensor]) -> dict[str, float]:
        """``update/ratio``: ‖change‖ / ‖weights‖; ``update/head``: the same of the head, where there is one;
        ``update/still``: share of the tensors that did not move at all."""
        now = [_sample(p) for p in self.weights]
        moved_W = torch.stack([(a - b).float().square().sum() for a, b in zip(now, before, strict=True)]).cpu()
        size_W = torch.stack([a.float().square().sum() for a in now]).cpu()
        metrics = {"update/ratio": _ratio(moved_W, size_W), "update/still": float((moved_W == 0).float().mean())}
        if self.is_head.any():
            metrics["update/head"] = _ratio(moved_W[self.is_head], size_W[self.is_head])
        return metrics


def _ratio(moved_W: Tensor, size_W: Tensor) -> float:
    return float((moved_W.sum() / size_W.sum().clamp_min(1e-30)).sqrt())


def _sample(p: Tensor) -> Tensor:
    return p.detach().reshape(-1)[:: max(1, p.numel() // SAMPLE)][:SAMPLE]


def _is_head(name: str) -> bool:
    return any(part in HEADS for part in name.split("."))
