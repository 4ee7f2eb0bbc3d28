"""Measures how far an optimizer step moves the weights, from a sample of each tensor.

These numbers show a learning rate that is too high or too low, and a part of the model that does not learn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

SAMPLE = 512  # elements of each tensor, evenly spread
HEADS = ("score", "head", "classifier")  # modules of a reward model or critic that turn a hidden state into a number


class WeightMotion:
    """Call ``before`` before the optimizer's step and ``after`` after it.

    If the model has adapters, they and the head are expected to train; otherwise all weights are. Frozen weights are
    measured too, because a weight that should train and is frozen must be noticed.

    If ranks hold parts of the tensors, ``places`` gives for each name the number of elements before this rank's part
    and of the whole tensor, and ``total`` sums a vector over the ranks. The same elements are then sampled.

    W weight tensors, S sampled elements of all of them one after another.
    """

    def __init__(
        self,
        named: Mapping[str, Tensor],
        places: Mapping[str, tuple[int, int]] | None = None,
        total: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        adapted = any("lora_" in name for name in named)
        kept = [(n, p) for n, p in named.items() if not adapted or "lora_" in n or _is_head(n)]
        self.weights = [(p, *(places[n] if places else (0, p.numel()))) for n, p in kept]
        self._total = total
        sizes = torch.tensor([len(_sample(*weight)) for weight in self.weights])
        device = kept[0][1].device
        self._owner_S = torch.repeat_interleave(torch.arange(len(kept)), sizes).to(device)
        self._is_head_W = torch.tensor([_is_head(name) for name, _ in kept])

    @torch.no_grad()
    def before(self) -> Tensor:
        """The sampled elements before the step. Give them to ``after``."""
        return torch.cat([_sample(*weight) for weight in self.weights]).float()

    @torch.no_grad()
    def after(self, before_S: Tensor) -> dict[str, float]:
        """``update/ratio``: ‖change‖ / ‖weights‖. ``update/head``: the same for the head, if there is one.
        ``update/still``: the share of tensors that did not change at all.
        """
        now_S = self.before()
        squares_S2 = torch.stack([(now_S - before_S).square(), now_S.square()], 1)
        sums_W2 = torch.zeros(len(self.weights), 2, device=now_S.device).index_add_(0, self._owner_S, squares_S2)
        sums_W2 = (sums_W2 if self._total is None else self._total(sums_W2.flatten()).view_as(sums_W2)).cpu()
        metrics = {"update/ratio": _ratio(sums_W2), "update/still": float((sums_W2[:, 0] == 0).float().mean())}
        if self._is_head_W.any():
            metrics["update/head"] = _ratio(sums_W2[self._is_head_W])
        return metrics


def _ratio(sums_W2: Tensor) -> float:
    moved, size = sums_W2.sum(0)
    return float((moved / size.clamp_min(1e-30)).sqrt())


def _sample(p: Tensor, before: int, size: int) -> Tensor:
    """The sampled elements that are in ``p``, which comes after ``before`` elements of a tensor of ``size``."""
    stride = max(1, size // SAMPLE)
    first = -(-before // stride)  # the number of the first sampled element in ``p``
    return p.detach().reshape(-1)[first * stride - before :: stride][: max(0, SAMPLE - first)]


def _is_head(name: str) -> bool:
    return any(part in HEADS for part in name.split("."))
