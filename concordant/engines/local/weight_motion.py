"""How far an optimizer step moves the weights, from a sample of each tensor: what tells a rate that is too high from
one too low, and a part that learns from one that was left out."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

SAMPLE = 512  # elements of each tensor that are looked at, evenly spread
HEADS = ("score", "head", "classifier")  # modules that turn a hidden state into a number: reward model's and critic's


class WeightMotion:
    """Call ``before`` the optimizer's step and ``after`` it.

    What is meant to train is the adapters where there are any, with the head; else everything. A weight that is meant
    to and does not move is the finding, so frozen ones are looked at too.

    W weight tensors, S sampled elements of all of them one after another.
    """

    def __init__(self, named: Iterable[tuple[str, Tensor]]) -> None:
        named = list(named)
        adapted = any("lora_" in name for name, _ in named)
        kept = [(n, p) for n, p in named if not adapted or "lora_" in n or _is_head(n)]
        self.weights = [p for _, p in kept]
        sizes = torch.tensor([len(_sample(p)) for p in self.weights])
        device = self.weights[0].device
        self._owner_S = torch.repeat_interleave(torch.arange(len(kept)), sizes).to(device)
        self._is_head_W = torch.tensor([_is_head(name) for name, _ in kept])

    @torch.no_grad()
    def before(self) -> Tensor:
        """The sampled elements as they are, to be given to ``after``."""
        return torch.cat([_sample(p) for p in self.weights]).float()

    @torch.no_grad()
    def after(self, before_S: Tensor) -> dict[str, float]:
        """``update/ratio``: ‖change‖ / ‖weights‖; ``update/head``: the same of the head, where there is one;
        ``update/still``: share of the tensors that did not move at all."""
        now_S = self.before()
        squares_S2 = torch.stack([(now_S - before_S).square(), now_S.square()], 1)
        sums_W2 = torch.zeros(len(self.weights), 2, device=now_S.device).index_add_(0, self._owner_S, squares_S2).cpu()
        metrics = {"update/ratio": _ratio(sums_W2), "update/still": float((sums_W2[:, 0] == 0).float().mean())}
        if self._is_head_W.any():
            metrics["update/head"] = _ratio(sums_W2[self._is_head_W])
        return metrics


def _ratio(sums_W2: Tensor) -> float:
    moved, size = sums_W2.sum(0)
    return float((moved / size.clamp_min(1e-30)).sqrt())


def _sample(p: Tensor) -> Tensor:
    return p.detach().reshape(-1)[:: max(1, p.numel() // SAMPLE)][:SAMPLE]


def _is_head(name: str) -> bool:
    return any(part in HEADS for part in name.split("."))
