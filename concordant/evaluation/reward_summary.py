"""Measures a reward model on held-out pairs: its accuracy, its calibration and its preference for longer answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from concordant.core.errors import UserError
from concordant.core.length_bias import length_slope
from concordant.evaluation.bootstrap import mean_of
from concordant.evaluation.metrics import win_points
from concordant.evaluation.records import Mean


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationBin:
    """The pairs whose confidence σ(|Δ|) is in [low, high)."""

    low: float
    high: float
    pairs: int
    predicted: float  # their mean confidence
    observed: Mean  # share of them ranked as people did, ties half


@dataclass(frozen=True, slots=True)
class LengthGroup:
    """Pairs whose chosen answer is longer than, as long as, or shorter than the rejected one."""

    name: str
    pairs: int
    accuracy: Mean


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadSummary:
    """One head of several, from the same pairs."""

    accuracy: Mean
    score_mean: float  # as in RewardModelSummary
    score_std: float
    length_slope: float | None
    length_mean: float | None

    def as_json(self) -> dict[str, object]:
        row = {"accuracy": self.accuracy.value, **_ends("accuracy", self.accuracy)}
        return {**row, "score_mean": self.score_mean, "score_std": self.score_std, **_length(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardModelSummary:
    pairs: int
    accuracy: Mean  # share of pairs where the chosen answer scores higher, ties half
    bayes_accuracy: Mean | None  # the accuracy that the labels' true probabilities would reach
    score_mean: float  # of all held-out answers, raw reward units; the scores of a policy are compared with it
    score_std: float
    longer_accuracy: Mean  # of the rule "always prefer the longer answer", ties half
    log_loss: Mean  # of -log σ(Δ), nats; guessing gives ln 2
    calibration_error: float  # expected calibration error: mean |observed - predicted| over bins, weighted by pairs
    bins: tuple[CalibrationBin, ...]  # bins without pairs are left out
    by_length: tuple[LengthGroup, ...]  # groups without pairs are left out
    length_slope: float | None = None  # reward units a word, between answers to one prompt; None: words not known
    length_mean: float | None = None  # words an answer
    heads: tuple[HeadSummary, ...] = ()  # of a model with several, whose score is the mean of theirs

    def as_json(self) -> dict[str, object]:
        """Plain numbers for report.json; None is "not known"."""
        return {
            "accuracy": self.accuracy.value,
            "bayes_accuracy": self.bayes_accuracy.value if self.bayes_accuracy else None,
            **_ends("accuracy", self.accuracy),
            "score_mean": self.score_mean,
            "score_std": self.score_std,
            "longer_accuracy": self.longer_accuracy.value,
            "log_loss": self.log_loss.value,
            "calibration_error": self.calibration_error,
            **_length(self),
            **({"heads": [head.as_json() for head in self.heads]} if self.heads else {}),
            "pairs": self.pairs,
            "calibration": [
                {
                    "low": b.low,
                    "high": b.high,
                    "pairs": b.pairs,
                    "predicted": b.predicted,
                    "observed": b.observed.value,
                    **_ends("observed", b.observed),
                }
                for b in self.bins
            ],
            "accuracy_by_length": {
                g.name: {"pairs": g.pairs, "accuracy": g.accuracy.value, **_ends("accuracy", g.accuracy)}
                for g in self.by_length
            },
        }


def _ends(name: str, mean: Mean) -> dict[str, float | None]:
    low, high = (mean.interval.low, mean.interval.high) if mean.interval else (None, None)
    return {f"{name}_low": low, f"{name}_high": high}


def _length(found: HeadSummary | RewardModelSummary) -> dict[str, float]:
    row = {"length_slope": found.length_slope, "length_mean": found.length_mean}
    return {name: value for name, value in row.items() if value is not None}


def summarise_reward_model(
    chosen_scores: Sequence[float],
    rejected_scores: Sequence[float],
    chosen_lengths: Sequence[int],
    rejected_lengths: Sequence[int],
    probability: Sequence[float] | None = None,
    *,
    words: tuple[Sequence[int], Sequence[int]] | None = None,
    heads: Sequence[Sequence[float]] = (),
    bins: int = 10,
    bootstrap: int = 2_000,
    seed: int = 0,
) -> RewardModelSummary:
    """The figures of held-out pairs, from their scores (reward units), lengths and P(chosen preferred).

    Lengths are in tokens or words; ``words`` are those of the chosen and of the rejected answers, from which the slope
    of the score over the length is fitted. ``heads`` are the scores of every head, each as chosen, rejected, chosen, …
    of the pairs. The confidence is the probability of the answer that the model prefers,
    σ(|Δ|) in [0.5, 1], in ``bins`` of equal width. σ(Δ) would not do, because the chosen answer always comes first.
    Raises UserError if there is no pair, and ValueError if columns have different lengths or a score is not finite.
    """
    chosen_P, rejected_P = np.asarray(chosen_scores, np.float64), np.asarray(rejected_scores, np.float64)
    longer_P = np.asarray(chosen_lengths, np.float64) - np.asarray(rejected_lengths, np.float64)
    _check(chosen_P, rejected_P, longer_P, probability)
    delta_P, right_P = chosen_P - rejected_P, win_points(chosen_P, rejected_P)

    def mean(x_P: NDArray[np.float64], is_share: bool = False) -> Mean:
        return mean_of(x_P, bootstrap, seed, is_share=is_share)

    calibration = _calibration(np.abs(delta_P), right_P, bins, mean)
    slope, mean_words = (None, None) if words is None else _of_length(chosen_P, rejected_P, *words)
    bayes = None
    if probability is not None:
        p_P = np.asarray(probability, np.float64)
        bayes = mean(np.maximum(p_P, 1 - p_P), is_share=True)
    return RewardModelSummary(
        pairs=len(delta_P),
        accuracy=mean(right_P, is_share=True),
        bayes_accuracy=bayes,
        score_mean=float(np.concatenate([chosen_P, rejected_P]).mean()),
        score_std=float(np.concatenate([chosen_P, rejected_P]).std()),
        longer_accuracy=mean(win_points(longer_P, np.zeros_like(longer_P)), is_share=True),
        log_loss=mean(np.logaddexp(0.0, -delta_P)),
        calibration_error=sum(b.pairs * abs(b.observed.value - b.predicted) for b in calibration) / len(delta_P),
        bins=calibration,
        by_length=_by_length(longer_P, right_P, mean),
        length_slope=slope,
        length_mean=mean_words,
        heads=tuple(_of_head(np.asarray(scores, np.float64).reshape(-1, 2), words, mean) for scores in heads),
    )


def _of_head(
    score_P2: NDArray[np.float64], words: tuple[Sequence[int], Sequence[int]] | None, mean: _MeanOf
) -> HeadSummary:
    slope, mean_words = (None, None) if words is None else _of_length(score_P2[:, 0], score_P2[:, 1], *words)
    return HeadSummary(
        accuracy=mean(win_points(score_P2[:, 0], score_P2[:, 1]), is_share=True),
        score_mean=float(score_P2.mean()),
        score_std=float(score_P2.std()),
        length_slope=slope,
        length_mean=mean_words,
    )


def _of_length(
    chosen_P: NDArray[np.float64],
    rejected_P: NDArray[np.float64],
    chosen_words: Sequence[int],
    rejected_words: Sequence[int],
) -> tuple[float, float]:
    """The slope of the score over the length, reward units a word, and the mean length in words."""
    score_B = torch.from_numpy(np.concatenate([chosen_P, rejected_P]))
    words_B = torch.tensor([*chosen_words, *rejected_words], dtype=torch.float64)
    pair_B = torch.arange(len(chosen_P)).repeat(2)
    return length_slope(score_B, words_B, pair_B), float(words_B.mean())


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


class _MeanOf(Protocol):
    def __call__(self, x_P: NDArray[np.float64], is_share: bool = False) -> Mean: ...


def _calibration(
    gap_P: NDArray[np.float64], right_P: NDArray[np.float64], bins: int, mean: _MeanOf
) -> tuple[CalibrationBin, ...]:
    confidence_P = 1 / (1 + np.exp(-gap_P))
    edges = np.linspace(0.5, 1.0, bins + 1)
    bin_P = np.clip(np.searchsorted(edges, confidence_P, side="right") - 1, 0, bins - 1)
    return tuple(
        CalibrationBin(
            low=float(edges[i]),
            high=float(edges[i + 1]),
            pairs=int(inside_P.sum()),
            predicted=float(confidence_P[inside_P].mean()),
            observed=mean(right_P[inside_P], is_share=True),
        )
        for i in range(bins)
        if (inside_P := bin_P == i).any()
    )


def _by_length(longer_P: NDArray[np.float64], right_P: NDArray[np.float64], mean: _MeanOf) -> tuple[LengthGroup, ...]:
    groups = {"longer": longer_P > 0, "same": longer_P == 0, "shorter": longer_P < 0}
    return tuple(
        LengthGroup(name, int(inside_P.sum()), mean(right_P[inside_P], is_share=True))
        for name, inside_P in groups.items()
        if inside_P.any()
    )
