"""Draws toytalk's pairs: a prompt, two answers, and the label between them."""

from __future__ import annotations

from random import Random

from concordant.core.errors import unknown_name
from concordant.core.seeding import python_stream
from concordant.data.records import Pair
from concordant.data.toytalk.answers import write_answer
from concordant.data.toytalk.judge import score_reading
from concordant.data.toytalk.labels import PRESETS, Preset, preference_probability
from concordant.data.toytalk.prompts import Group, ToyPrompt, prompts
from concordant.data.toytalk.reader import read_answer

TRAINING_PAIRS = 7_200
# Held-out prompts by group; each prompt occurs once.
HELD_OUT_PROMPTS: dict[Group, int] = {"fact": 270, "task": 40, "harm": 110, "follow-up": 80}

_CLOSE = (0.02, 0.10)  # difference of gold within which two answers are nearly as good
_CLOSE_SHARE = 0.27  # of pairs; the others differ by more.  Chosen so that the demo's Bayes accuracy is about 0.9


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
    answers, gold = _two_answers(prompt, random)
    probability = preference_probability(rater, gold, answers)
    chosen = 0 if labels.random() < probability else 1
    return Pair(
        prompt.messages,
        answers[chosen],
        answers[1 - chosen],
        probability=probability if chosen == 0 else 1.0 - probability,
        extra={"gold_chosen": gold[chosen], "gold_rejected": gold[1 - chosen]},
    )


def _two_answers(prompt: ToyPrompt, random: Random) -> tuple[tuple[str, str], tuple[float, float]]:
    """Two answers and their gold scores: nearly as good in a given share of cases, never quite."""
    close = random.random() < _CLOSE_SHARE
    while True:
        first, second = write_answer(prompt.question, random), write_answer(prompt.question, random)
        gold = _score(prompt, first), _score(prompt, second)
        gap = abs(gold[0] - gold[1])
        if _CLOSE[0] <= gap < _CLOSE[1] if close else gap >= _CLOSE[1]:
            return (first, second), gold


def _score(prompt: ToyPrompt, answer: str) -> float:
    return score_reading(prompt.question, read_answer(answer, prompt.question.subject))
