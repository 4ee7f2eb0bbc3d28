"""Draws toytalk's pairs: a prompt, two answers, and a label."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Literal

from concordant.core.errors import unknown_name
from concordant.core.seeding import python_stream
from concordant.data.records import Pair
from concordant.data.toytalk.answers import write_alike, write_answer
from concordant.data.toytalk.judge import score_reading
from concordant.data.toytalk.labels import PRESETS, preference_probability
from concordant.data.toytalk.prompts import Group, ToyPrompt, prompts
from concordant.data.toytalk.reader import read_answer

Side = Literal["train", "held-out"]

TRAINING_PAIRS = 14_400
HELD_OUT_PAIRS = 4  # for each held-out prompt; with 430 pairs, an accuracy would be uncertain by four points
# The number of prompts in each group. Training has the same mixture.
HELD_OUT_PROMPTS: dict[Group, int] = {"fact": 205, "task": 45, "harm": 130, "follow-up": 50}
_HELD_OUT = sum(HELD_OUT_PROMPTS.values())

_ALIKE = 0.40  # share of pairs that differ only in kindness; raters disagree on them, so Bayes accuracy is about 0.9
_CLEAR = 0.20  # least difference in gold between the two answers of the other pairs


def training_pairs(preset: str = "demo", seed: int = 0) -> list[Pair]:
    """14,400 labelled pairs. A training prompt may occur several times with different answers."""
    return _labelled("train", preset, seed)


def heldout_pairs(preset: str = "demo", seed: int = 0) -> list[Pair]:
    """1,720 labelled pairs, four for each of 430 held-out prompts. No seed's training pairs have these prompts."""
    return _labelled("held-out", preset, seed)


def _labelled(side: Side, preset: str, seed: int) -> list[Pair]:
    if preset not in PRESETS:
        raise unknown_name("toytalk preset", preset, PRESETS)
    random = python_stream(seed, "toytalk/labels", side, preset)
    pairs = []
    for drawn in _draw_pairs(side, seed):
        probability = preference_probability(PRESETS[preset], drawn.gold, drawn.answers)
        chosen = 0 if random.random() < probability else 1
        pairs.append(
            Pair(
                drawn.prompt.messages,
                drawn.answers[chosen],
                drawn.answers[1 - chosen],
                probability=probability if chosen == 0 else 1.0 - probability,
                extra={"gold_chosen": drawn.gold[chosen], "gold_rejected": drawn.gold[1 - chosen]},
            )
        )
    return pairs


@dataclass(frozen=True, slots=True)
class _Drawn:
    prompt: ToyPrompt
    answers: tuple[str, str]
    gold: tuple[float, float]


@lru_cache(maxsize=4)  # all presets label the same pairs, and every stage of a pipeline needs them
def _draw_pairs(side: Side, seed: int) -> tuple[_Drawn, ...]:
    random = python_stream(seed, "toytalk/pairs", side)
    drawn: list[ToyPrompt] = []
    for group, count in HELD_OUT_PROMPTS.items():
        if side == "held-out":
            drawn += HELD_OUT_PAIRS * random.sample(prompts(group, held_out=True), count)
        else:
            drawn += random.choices(prompts(group, held_out=False), k=TRAINING_PAIRS * count // _HELD_OUT)
    random.shuffle(drawn)
    return tuple(_Drawn(prompt, *_two_answers(prompt, random)) for prompt in drawn)


def _two_answers(prompt: ToyPrompt, random: Random) -> tuple[tuple[str, str], tuple[float, float]]:
    """Two answers and their gold scores. They differ only in kindness with probability ``_ALIKE``, else clearly."""
    alike = random.random() < _ALIKE
    while True:
        if alike:
            first, second = write_alike(prompt.question, random)
        else:
            first, second = write_answer(prompt.question, random), write_answer(prompt.question, random)
        gold = _score(prompt, first), _score(prompt, second)
        if gold[0] != gold[1] if alike else abs(gold[0] - gold[1]) >= _CLEAR:
            return (first, second), gold


def _score(prompt: ToyPrompt, answer: str) -> float:
    return score_reading(prompt.question, read_answer(answer, prompt.question.subject))
