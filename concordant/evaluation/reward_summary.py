"""How good a reward model is on held-out pairs: right how often, as sure as it should be, or merely fond of length.

N pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from concordant.core.errors import UserError
from concordant.evaluation.bootstrap import mean_interval
from concordant.evaluation.metrics import win_points
from concordant.evaluation.records import Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationBin:
    """Pairs whose confidence σ(|Δ|) falls in [low, high)."""

    low: float
    high: float
    pairs: int
    predicted: float  # mean confidence
    observed: float  # share of them ranked as people did, ties half


@dataclass(frozen=True, slots=True)
class LengthGroup:
    """Pairs whose chosen answer is longer than, as long as, or shorter than the rejected one."""

    name: str
    pairs: int
    accuracy: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardModelSummary:
    pairs: int
    accuracy: float  # share of pairs where the chosen answer scores higher, ties half
    accuracy_interval: Interval | None
    bayes_accuracy: float | None  # what a judge who knew the label's true model would reach
    score_mean: float  # of all held-out answers, raw reward units: what a policy's answers are compared with
    score_std: float
    longer_accuracy: float  # of "always prefer the longer", ties half: the score to beat
    log_loss: float  # mean of -log σ(Δ), nats; ln 2 is a coin
    calibration_error: float  # expected calibration error: mean |observed - predicted| over bins, weighted by pairs
    bins: tuple[CalibrationBin, ...]  # bins without pairs are left out
    by_length: tuple[LengthGroup, ...]  # groups without pairs are left out

    def as_json(self) -> dict[str, object]:
        """Plain numbers for report.json; None is "not known"."""
        return {
            "accuracy": self.accuracy,
            "bayes_accuracy": self.bayes_accuracy,
            "accuracy_low": self.accuracy_interval.low if self.accuracy_interval else None,
            "accuracy_high": self.accuracy_interval.high if self.accuracy_interval else None,
            "score_mean": self.score_mean,
            "score_std": self.score_std,
            "longer_accuracy": self.longer_accuracy,
            "log_loss": self.log_loss,
            "calibration_error": self.calibration_error,
            "pairs": self.pairs,
            "calibration": [
                {"low": b.low, "high": b.high, "pairs": b.pairs, "predicted": b.predicted, "observed": b.observed}
                for b in self.bins
            ],
            "accuracy_by_length": {g.name: {"pairs": g.pairs, "accuracy": g.accuracy} for g in self.by_length},
        }


def summarise_reward_model(
    chosen_scores: Sequence[float],
    rejected_scores: Sequence[float],
    chosen_lengths: Sequence[int],
    rejected_lengths: Sequence[int],
    probability: Sequence[float] | None = None,
    *,
    bins: int = 10,
    bootstrap: int = 2_000,
    seed: int = 0,
) -> RewardModelSummary:
    """Held-out figures from N pairs' scores (reward units), lengths (tokens or words) and P(chosen preferred).

    A pair is shown with its chosen answer first, so σ(Δ) alone could not be wrong by being too low: the
    confidence is that of the answer the model would pick, σ(|Δ|) in [0.5, 1], in ``bins`` of equal width.
    Raises UserError when there is no pair, ValueError for columns of different lengths or scores not finite.
    """
    chosen_N, rejected_N = np.asarray(chosen_scores, np.float64), np.asarray(rejected_scores, np.float64)
    longer_N = np.asarray(chosen_lengths, np.float64) - np.asarray(rejected_lengths, np.float64)
    _check(chosen_N, rejected_N, longer_N, probability)
    delta_N, right_N = chosen_N - rejected_N, win_points(chosen_N, rejected_N)
    calibration = _calibration(np.abs(delta_N), right_N, bins)
    bayes = None
    if probability is not None:
        p_N = np.asarray(probability, np.float64)
        bayes = float(np.maximum(p_N, 1 - p_N).mean())
    return RewardModelSummary(
        pairs=len(delta_N),
        accuracy=float(right_N.mean()),
        accuracy_interval=mean_interval(right_N, bootstrap, seed),
        bayes_accuracy=bayes,
        score_mean=float(np.concatenate([chosen_N, rejected_N]).mean()),
        score_std=float(np.concatenate([chosen_N, rejected_N]).std()),
        longer_accuracy=float(win_points(longer_N, np.zeros_like(longer_N)).mean()),
        log_loss=float(np.logaddexp(0.0, -delta_N).mean()),
        calibration_error=sum(b.pairs * abs(b.observed - b.predicted) for b in calibration) / len(delta_N),
        bins=calibration,
        by_length=_by_length(longer_N, right_N),
    )


def _check(
    chosen_N: NDArray[np.float64],
    rejected_N: NDArray[np.float64],
    longer_N: NDArray[np.float64],
    probability: Sequence[float] | None,
) -> None:
    if not len(chosen_N):
        raise UserError("no held-out pair to measure the reward model on")
    sizes = {len(chosen_N), len(rejected_N), len(longer_N), len(chosen_N if probability is None else probability)}
    if len(sizes) > 1:
        raise ValueError(f"scores, lengths and probabilities of different numbers of pairs: {sorted(sizes)}")
    if not (np.isfinite(chosen_N).all() and np.isfinite(rejected_N).all()):
        raise ValueError("a reward model's score is not finite")


def _calibration(gap_N: NDArray[np.float64], right_N: NDArray[np.float64], bins: int) -> tuple[CalibrationBin, ...]:
    confidence_N = 1 / (1 + np.exp(-gap_N))
    edges = np.linspace(0.5, 1.0, bins + 1)
    bin_N = np.clip(np.searchsorted(edges, confidence_N, side="right") - 1, 0, bins - 1)
    found = []
    for i in range(bins):
        inside_N = bin_N == i
        if inside_N.any():
            predicted, observed = float(confidence_N[inside_N].mean()), float(right_N[inside_N].mean())
            found.append(
                CalibrationBin(
                    low=float(edges[i]),
                    high=float(edges[i + 1]),
                    pairs=int(inside_N.sum()),
                    predicted=predicted,
                    observed=observed,
                )
            )
    return tuple(found)


def _by_length(longer_N: NDArray[np.float64], right_N: NDArray[np.float64]) -> tuple[LengthGroup, ...]:
    groups = {"longer": longer_N > 0, "same": longer_N == 0, "shorter": longer_N < 0}
    return tuple(
        LengthGroup(name, int(inside_N.sum()), float(right_N[inside_N].mean()))
        for name, inside_N in groups.items()
        if inside_N.any()
    )
