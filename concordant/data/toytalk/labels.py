"""The preferences of simulated raters: Bradley–Terry labels from the gold score, the length and the kindness."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from concordant.core.errors import UserError
from concordant.data.records import Pair
from concordant.data.toytalk.judge import kindness


@dataclass(frozen=True, slots=True)
class Preset:
    """P(a preferred to b) = σ(gold·Δgold + length·Δwords + kind·Δkindness)."""

    gold: float  # s: nats for a difference of 1 in gold, which lies in [0, 1]
    length: float = 0.0  # b: nats for each word
    kind: float = 0.0  # c: nats for each kind phrase; a rude one counts as minus one


PRESETS: dict[str, Preset] = {
    "demo": Preset(gold=16.0),
    "human": Preset(gold=4.5),  # two raters agree on 70–77 % of the pairs, as people do
    "biased": Preset(gold=8.0, length=0.1, kind=0.5),
}


def preference_probability(preset: Preset, gold: tuple[float, float], answers: tuple[str, str]) -> float:
    """The probability that the preset's rater prefers the first answer. ``gold`` holds the answers' gold scores."""
    difference = preset.gold * (gold[0] - gold[1])
    difference += preset.length * (len(answers[0].split()) - len(answers[1].split()))
    if preset.kind:  # reading the answers takes most of the time that labels take
        difference += preset.kind * (kindness(answers[0]) - kindness(answers[1]))
    return 1.0 / (1.0 + math.exp(-difference))


def bayes_accuracy(pairs: Iterable[Pair]) -> float:
    """The highest possible accuracy: the mean of max(P, 1 - P). Raises UserError if P is not known."""
    return _mean(max(p, 1.0 - p) for p in _probabilities(pairs))


def rater_agreement(pairs: Iterable[Pair]) -> float:
    """How often two raters agree who draw their labels independently: the mean of P² + (1 - P)²."""
    return _mean(p * p + (1.0 - p) * (1.0 - p) for p in _probabilities(pairs))


def _probabilities(pairs: Iterable[Pair]) -> Iterable[float]:
    for pair in pairs:
        if pair.probability is None:
            raise UserError("a pair without its probability: only generated data knows the label's true model")
        yield pair.probability


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    if not listed:
        raise UserError("no pairs: the mean over none is not a number")
    return sum(listed) / len(listed)
