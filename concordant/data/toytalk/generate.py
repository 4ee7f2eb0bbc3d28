"""Draws toytalk's pairs: a prompt, two answers, and the label between them."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from concordant.core.errors import unknown_name
from concordant.core.seeding import python_stream
from concordant.data.records import Message, Pair
from concordant.data.toytalk.answers import write_answer
from concordant.data.toytalk.judge import gold_score
from concordant.data.toytalk.labels import PRESETS, Preset, preference_probability
from concordant.data.toytalk.prompts import Group, ToyPrompt, prompts

TRAINING_PAIRS = 7_200
# Held-out prompts by group; each prompt occurs once.
HELD_OUT_PROMPTS: dict[Group, int] = {"fact": 260, "task": 40, "harm": 100, "follow-up": 100}

_NEAR_TIE = 0.05  # of gold: people who compare answers are seldom shown two that are alike
_KEEP_NEAR_TIE = 0.05  # probability


def training_pairs(preset: str = "demo", seed: int = 0) -> list[Pair]:
    """7,200 labelled pairs over the training prompts, which recur with other answers."""
    rater = _preset(preset)
    random = python_stream(seed, "toytalk/train")
    total = sum(HELD_OUT_PROMPTS.values())
    drawn = [
        random.choice(prompts(group, held_out=False))
        for group, count in HELD_OUT_PROMPTS.items()
        for _ in range(TRAINING_PAIRS * count // total)
    ]
    random.shuffle(drawn)
    labels = python_stream(seed, "toytalk/train labels", preset)
    return [_pair(prompt, rater, random, labels) for prompt in drawn]


def heldout_pairs(preset: str = "demo", seed: int = 0) -> list[Pair]:
    """500 labelled pairs, one a held-out prompt: no seed's training pairs contain any of them."""
    rater = _preset(preset)
    random = python_stream(seed, "toytalk/held-out")
    drawn = [
        prompt
        for group, count in HELD_OUT_PROMPTS.items()
        for prompt in random.sample(prompts(group, held_out=True), count)
    ]
    random.shuffle(drawn)
    labels = python_stream(seed, "toytalk/held-out labels", preset)
    return [_pair(prompt, rater, random, labels) for prompt in drawn]


def _preset(name: str) -> Preset:
    if name not in PRESETS:
        raise unknown_name("toytalk preset", name, PRESETS)
    return PRESETS[name]


def _pair(prompt: ToyPrompt, rater: Preset, random: Random, labels: Random) -> Pair:
    first, second = _two_answers(prompt, random)
    probability = preference_probability(rater, prompt.messages, first, second)
    if labels.random() >= probability:
        first, second, probability = second, first, 1.0 - probability
    return _labelled(prompt.messages, first, second, probability)


def _two_answers(prompt: ToyPrompt, random: Random) -> tuple[str, str]:
    """Two different answers, seldom of nearly the same gold score."""
    while True:
        first, second = write_answer(prompt.question, random), write_answer(prompt.question, random)
        gap = abs(gold_score(prompt.messages, first) - gold_score(prompt.messages, second))
        if first != second and (gap >= _NEAR_TIE or random.random() < _KEEP_NEAR_TIE):
            return first, second


def _labelled(messages: Sequence[Message], chosen: str, rejected: str, probability: float) -> Pair:
    gold = {"gold_chosen": gold_score(messages, chosen), "gold_rejected": gold_score(messages, rejected)}
    return Pair(tuple(messages), chosen, rejected, probability=probability, extra=gold)
