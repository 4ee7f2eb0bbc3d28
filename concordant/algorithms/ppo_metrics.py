"""What a step of PPO measures beside its answers: the seconds of its phases, and the means over its rounds."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter

from torch import Tensor

from concordant.algorithms.work import mean


class Clock:
    """Measures the seconds of each phase of a step. The keys of ``seconds`` are the names of metrics."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = perf_counter()

    def lap(self, phase: str) -> None:
        now = perf_counter()
        self.seconds[f"seconds/{phase}"] = now - self._last
        self._last = now


def of_sampler(weight_N: Tensor, cap: float) -> dict[str, float]:
    """Of the weights min(π/μ, cap) of tokens that a sampler with another distribution μ drew."""
    capped = (weight_N >= cap).float().mean()
    return {
        "sampling/importance_ratio/mean": float(weight_N.mean()),
        "sampling/importance_ratio/capped": float(capped),
    }


def summary(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of each metric over a step's rounds, and ``doctor/ratio/start``.

    If the name of a metric ends in "/max", its greatest value is taken instead of the mean.

    ``ratio/shift`` is the mean absolute difference between the policy's log-probs and the old log-probs. In the first
    round the policy's weights have not changed since the old log-probs were computed. So this first shift is 0 except
    for rounding, unless a layer is random, such as dropout. Only the first shift is kept, as ``doctor/ratio/start``.
    """
    shifts = [row.pop("ratio/shift", None) for row in rounds]
    for row in rounds:
        row.pop("replay/ratio/shift", None)
    return mean(rounds) | ({} if shifts[0] is None else {"doctor/ratio/start": shifts[0]})
