"""Measures the answers of one policy, and compares the scores of two policies on the same prompts."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from concordant.core.errors import UserError

# Scores that differ by less than this share of the greatest score are a tie. One answer that is scored in two batches
# has two scores, because sums of equal numbers in another order differ in their last bits: in fp32 by up to some 1e-7.
TIE = 1e-6

_WORD = re.compile(r"\w+(?:['’]\w+)*")


def words(text: str) -> list[str]:
    """The words of a text in lower case: letters, digits and apostrophes inside words, without punctuation."""
    return _WORD.findall(text.casefold())


def _ngrams(tokens: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]


def distinct(responses: Sequence[str], n: int) -> float | None:
    """Different word n-grams over all word n-grams of all responses, in (0, 1].  Li et al. 2016.

    None if no response has n words. The share falls as the amount of text grows, so compare only policies whose answers
    have similar lengths.
    """
    grams = [gram for response in responses for gram in _ngrams(words(response), n)]
    return len(set(grams)) / len(grams) if grams else None


def repetitions(responses: Sequence[str], n: int = 4) -> list[float | None]:
    """For each response, the share of its word n-grams that repeat an earlier one.

    0 means no repetition; "thank you thank you thank you thank you" gives 0.6. None for a response of under n words.
    """
    shares: list[float | None] = []
    for response in responses:
        grams = _ngrams(words(response), n)
        shares.append(1 - len(set(grams)) / len(grams) if grams else None)
    return shares


def repetition(responses: Sequence[str], n: int = 4) -> float | None:
    """The mean of ``repetitions`` over the responses of n words or more; None if there is none."""
    shares = [share for share in repetitions(responses, n) if share is not None]
    return math.fsum(shares) / len(shares) if shares else None


def win_points(scores: NDArray[np.float64], baseline: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 where the policy's answer has the higher score, 0.5 for a tie, 0 where the lower; any shape, elementwise."""
    difference = scores - baseline
    return np.where(np.abs(difference) <= rounding(scores, baseline), 0.5, (difference > 0).astype(np.float64))


def rounding(*scores: NDArray[np.float64]) -> float:
    """A difference between scores that may come from rounding."""
    return TIE * max(float(np.abs(x).max()) for x in scores)


def best_of_n_kl_bound(n: int) -> float:
    """log n - (n-1)/n nats, an upper bound of best-of-n's KL from the sampled policy.  Beirami et al. 2024.

    The bound is exact if no two answers tie and every single answer is very unlikely.
    """
    if n < 1:
        raise UserError(f"best-of-n with n = {n}: n is the number of samples a prompt, at least 1")
    return math.log(n) - (n - 1) / n
