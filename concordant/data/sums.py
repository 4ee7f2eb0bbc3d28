"""``builtin:sums``: seeded sums of two digits, for a model from scratch that learns to add, or to ask a calculator.

Half of the demonstrations are mistaken, so a model that imitates them is often wrong. A verifiable reward
(``rule:number``) knows the truth. docs/environments.md describes the world.
"""

from __future__ import annotations

from random import Random

from concordant.core.seeding import python_stream
from concordant.data.records import Demonstration, Message

PHRASINGS = ("{a} + {b}", "What is {a} plus {b}?", "Add {a} and {b}.", "How much are {a} and {b}?")
DIGITS = range(10)
DEMONSTRATIONS = 6_000
HELD_OUT = 80  # of the 400 prompts; no training has them, and every sum is in training in other words
MISTAKEN = 0.5  # share of the demonstrations that are wrong

Asked = tuple[str, int, int]  # a phrasing and two digits


def training_sums(preset: str = "direct", seed: int = 0) -> list[Demonstration]:
    """Demonstrations of sums. With the preset ``calculator`` they ask the calculator before they answer."""
    training, _ = _prompts()
    random = python_stream(seed, "sums/training", preset)
    return [_demonstration(random.choice(training), preset, random) for _ in range(DEMONSTRATIONS)]


def heldout_sums(preset: str = "direct", seed: int = 0) -> list[Demonstration]:
    """A demonstration for each held-out prompt. The prompts are the same for every seed."""
    _, held_out = _prompts()
    random = python_stream(seed, "sums/held-out", preset)
    return [_demonstration(asked, preset, random) for asked in held_out]


def _prompts() -> tuple[list[Asked], list[Asked]]:
    """The prompts of training, and those that are held out."""
    random = python_stream(0, "sums/split")
    sums = [(a, b) for a in DIGITS for b in DIGITS]
    held = {(random.choice(PHRASINGS), a, b) for a, b in random.sample(sums, HELD_OUT)}
    prompts = [(phrasing, a, b) for phrasing in PHRASINGS for a, b in sums]
    return [asked for asked in prompts if asked not in held], [asked for asked in prompts if asked in held]


def _demonstration(asked: Asked, preset: str, random: Random) -> Demonstration:
    """An answer to a prompt. A mistaken one counts one too many; with a calculator, it asks for another sum."""
    phrasing, a, b = asked
    turns = [Message("user", phrasing.format(a=a, b=b))]
    counted = b + 1 if random.random() < MISTAKEN else b
    if preset == "calculator":
        turns += [Message("assistant", f"calc({a} + {counted})"), Message("tool", str(a + counted))]
    turns.append(Message("assistant", str(a + counted)))
    return Demonstration(tuple(turns), 1, extra={"ground_truth": str(a + b)})
