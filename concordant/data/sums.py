"""``builtin:sums``: seeded sums of two numbers, for a model from scratch that learns to add, or to ask a calculator.

Half of the demonstrations are mistaken, so a model that imitates them is often wrong. A verifiable reward
(``rule:number``) knows the truth. docs/environments.md describes the world.
"""

from __future__ import annotations

from random import Random

from concordant.core.seeding import python_stream
from concordant.data.records import Demonstration, Message

NUMBERS = 20  # both numbers are below this one
DEMONSTRATIONS = 6_000
HELD_OUT = 80  # sums whose numbers no training has in this order; training has each of them in the other order
MISTAKEN = 0.5  # share of the demonstrations with a wrong number


def training_sums(preset: str = "direct", seed: int = 0) -> list[Demonstration]:
    """Demonstrations of sums. With the preset ``calculator`` they ask the calculator before they answer."""
    held, random = set(_held_out()), python_stream(seed, "sums/training")
    sums = [(a, b) for a in range(NUMBERS) for b in range(NUMBERS) if (a, b) not in held]
    return [_demonstration(*random.choice(sums), preset, random) for _ in range(DEMONSTRATIONS)]


def heldout_sums(preset: str = "direct", seed: int = 0) -> list[Demonstration]:
    """A demonstration of each held-out sum. The sums are the same for every seed."""
    random = python_stream(seed, "sums/held-out")
    return [_demonstration(a, b, preset, random) for a, b in _held_out()]


def _held_out() -> list[tuple[int, int]]:
    random = python_stream(0, "sums/split")
    pairs = random.sample([(a, b) for b in range(NUMBERS) for a in range(b)], HELD_OUT)
    return [pair if random.random() < 0.5 else pair[::-1] for pair in pairs]


def _demonstration(a: int, b: int, preset: str, random: Random) -> Demonstration:
    total = a + b
    said = total if random.random() >= MISTAKEN else random.choice([x for x in range(2 * NUMBERS - 1) if x != total])
    turns = [Message("user", f"{a} + {b}")]
    if preset == "calculator":
        turns += [Message("assistant", f"calc({a} + {b})"), Message("tool", str(total))]
    turns.append(Message("assistant", str(said)))
    return Demonstration(tuple(turns), 1, extra={"ground_truth": str(total)})
