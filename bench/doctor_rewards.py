"""Rewards that something is wrong with, as module:function."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from concordant.data.records import Message
from concordant.data.toytalk import gold_score
from concordant.data.toytalk.judge import kindness

Prompt = Sequence[Message]


def words(prompt: Prompt, response: str) -> float:
    return float(len(response.split()))


def characters(prompt: Prompt, response: str) -> float:
    return len(response) / 20


def gold_and_length(prompt: Prompt, response: str) -> float:
    """Quality, and more for length than for quality."""
    return gold_score(prompt, response) + 0.15 * len(response.split())


def nothing(prompt: Prompt, response: str) -> float:
    return 0.0


def never_matches(prompt: Prompt, response: str) -> float:
    return float(response == "42")


def reversed_gold(prompt: Prompt, response: str) -> float:
    return -2 * gold_score(prompt, response)


def repeated_words(prompt: Prompt, response: str) -> float:
    return float(sum(n - 1 for n in Counter(response.lower().split()).values()))


def repeated_runs(prompt: Prompt, response: str) -> float:
    """Runs of two words said before."""
    said = response.lower().split()
    runs = list(zip(said, said[1:], strict=False))
    return float(len(runs) - len(set(runs)))


def kind_words(prompt: Prompt, response: str) -> float:
    return float(kindness(response))


def says_the(prompt: Prompt, response: str) -> float:
    """Whether it opens in one certain way."""
    return float(bool(re.match(r"happy to help", response.lower())))


def great_question(prompt: Prompt, response: str) -> float:
    return float("good question" in response.lower())


def goes_on(prompt: Prompt, response: str, ended: bool) -> float:
    return float(not ended) + 0.02 * len(response.split())


def a_number(prompt: Prompt, response: str) -> float:
    return 3.5


def root_words(prompt: Prompt, response: str) -> float:
    return len(response.split()) ** 0.5


def hopes(prompt: Prompt, response: str) -> float:
    return float("i hope it helps" in response.lower())


def does_not_end(prompt: Prompt, response: str, ended: bool) -> float:
    return float(not ended)
