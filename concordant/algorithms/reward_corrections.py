"""Corrections of a reward model's scores, from figures that were measured on held-out answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from concordant.algorithms.rewards import Answer, Axis
from concordant.core.length_bias import without_length
from concordant.engines.protocol import Future


def words_of(response: str) -> int:
    """The length of an answer as corrections measure it: in words, so that no tokenizer matters."""
    return len(response.split())


@dataclass(frozen=True, kw_only=True)
class Correction:
    """What is known about a model's scores of held-out answers."""

    slope: float = 0.0  # reward units a word
    words: float = 0.0  # mean length of an answer, words
    mean: float = 0.0  # of the scores; of the corrected ones, because an answer of the mean length keeps its score
    deviation: float = 1.0  # of the scores


@dataclass(frozen=True)
class Corrected:
    """An axis whose scores lose the part that length explains, and are given in held-out standard deviations."""

    axis: Axis
    correction: Correction

    def __call__(self, answers: Sequence[Answer]) -> Future[Sequence[float | None]]:
        return corrected(self.axis(answers), answers, self.correction)


def corrected(
    scores: Future[Sequence[float | None]], answers: Sequence[Answer], correction: Correction
) -> Future[Sequence[float | None]]:
    """The scores of ``answers`` after the correction."""
    return _ToCome(scores, [words_of(a.response) for a in answers], correction)


@dataclass(frozen=True, slots=True)
class _ToCome:
    scores: Future[Sequence[float | None]]
    words: Sequence[int]
    correction: Correction

    def result(self) -> list[float | None]:
        c, given = self.correction, self.scores.result()
        score_B = torch.tensor([0.0 if score is None else score for score in given], dtype=torch.float64)
        score_B = without_length(score_B, torch.tensor(self.words, dtype=torch.float64), c.slope, c.words)
        corrected = ((score_B - c.mean) / c.deviation).tolist()
        return [None if score is None else x for score, x in zip(given, corrected, strict=True)]
