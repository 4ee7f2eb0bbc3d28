"""Measures a reward model on held-out pairs: its accuracy, its calibration and its preference for longer answers."""

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
    """The pairs whose confidence σ(|Δ|) is in [low, high)."""

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
    bayes_accuracy: float | None  # the accuracy that the labels' true probabilities would reach
    score_mean: float  # of all held-out answers, raw reward units; the scores of a policy are compared with it
    score_std: float
    longer_accuracy: float  # of the rule "always prefer the longer answer", ties half
    log_loss: float  # mean of -log σ(Δ), nats; guessing gives ln 2
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
    """The figures of held-out pairs, from their scores (reward units), lengths and P(chosen preferred).

    Lengths are in tokens or words. The confidence is the probability of the answer that the model prefers, σ(|Δ|) in
    [0.5, 1], in ``bins`` of equal width. σ(Δ) would not do, because the chosen answer always comes first. Raises
    UserError if there is no pair, and ValueError if columns have different lengths or a score is not finite.
    """
    chosen_P, rejected_P = np.asarray(chosen_scores, np.float64), np.asarray(rejected_scores, np.float64)
    longer_P = np.asarray(chosen_lengths, np.float64) - np.asarray(rejected_lengths, np.float64)
    _check(chosen_P, rejected_P, longer_P, probability)
    delta_P, right_P = chosen_P - rejected_P, win_points(chosen_P, rejected_P)
    calibration = _calibration(np.abs(delta_P), right_P, bins)
    bayes = None
    if probability is not None:
        p_P = np.asarray(probability, np.float64)
        bayes = float(np.maximum(p_P, 1 - p_P).mean())
    return RewardModelSummary(
        pairs=len(delta_P),
        accuracy=float(right_P.mean()),
        accuracy_interval=mean_interval(right_P, bootstrap, seed),
        bayes_accuracy=bayes,
        score_mean=float(np.concatenate([chosen_P, rejected_P]).mean()),
        score_std=float(np.concatenate([chosen_P, rejected_P]).std()),
        longer_accuracy=float(win_points(longer_P, np.zeros_like(longer_P)).mean()),
        log_loss=float(np.logaddexp(0.0, -delta_P).mean()),
        calibration_error=sum(b.pairs * abs(b.observed - b.predicted) for b in calibration) / len(delta_P),
        bins=calibration,
        by_length=_by_length(longer_P, right_P),
    )


def _check(
    chosen_P: NDArray[np.float64],
    rejected_P: NDArray[np.float64],
    longer_P: NDArray[np.float64],
    probability: Sequence[float] | None,
) -> None:
    if not len(chosen_P):
        raise UserError("no held-out pair to measure the reward model on")
    sizes = {len(chosen_P), len(rejected_P), len(longer_P), len(chosen_P if probability is None else probability)}
    if len(sizes) > 1:
        raise ValueError(f"scores, lengths and probabilities of different numbers of pairs: {sorted(sizes)}")
    if not (np.isfinite(chosen_P).all() and np.isfinite(rejected_P).all()):
        raise ValueError("a reward model's score is not finite")


def _calibration(gap_P: NDArray[np.float64], right_P: NDArray[np.float64], bins: int) -> tuple[CalibrationBin, ...]:
    confidence_P = 1 / (1 + np.exp(-gap_P))
    edges = np.linspace(0.5, 1.0, bins + 1)
    bin_P = np.clip(np.searchsorted(edges, confidence_P, side="right") - 1, 0, bins - 1)
    found = []
    for i in range(bins):
        inside_P = bin_P == i
        if inside_P.any():
            predicted, observed = float(confidence_P[inside_P].mean()), float(right_P[inside_P].mean())
            found.append(
                CalibrationBin(
                    low=float(edges[i]),
                    high=float(edges[i + 1]),
                    pairs=int(inside_P.sum()),
                    predicted=predicted,
                    observed=observed,
                )
            )
    return tuple(found)


def _by_length(longer_P: NDArray[np.float64], right_P: NDArray[np.float64]) -> tuple[LengthGroup, ...]:
    groups = {"longer": longer_P > 0, "same": longer_P == 0, "shorter": longer_P < 0}
    return tuple(
        LengthGroup(name, int(inside_P.sum()), float(right_P[inside_P].mean()))
        for name, inside_P in groups.items()
        if inside_P.any()
    )
