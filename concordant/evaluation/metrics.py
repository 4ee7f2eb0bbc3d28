"""Measures the answers of one policy, and compares the scores of two policies on the same prompts."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from concordant.core.errors import UserError

# Scores that differ by less are a tie, because sums of equal numbers in another order differ in their last bits.
TIE = 1e-9

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


def repetition(responses: Sequence[str], n: int = 4) -> float | None:
    """The share of a response's word n-grams that repeat an earlier one; the mean over responses with n words or more.

    0 means no repetition; "thank you thank you thank you thank you" gives 0.6. None if no response has n words.
    """
    shares = []
    for response in responses:
        grams = _ngrams(words(response), n)
        if grams:
            shares.append(1 - len(set(grams)) / len(grams))
    return math.fsum(shares) / len(shares) if shares else None


def win_points(scores_G: NDArray[np.float64], baseline_G: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 where the policy's answer has the higher score, 0.5 for a tie, 0 where the lower score, shape (G,)."""
    difference_G = scores_G - baseline_G
    return np.where(np.abs(difference_G) <= TIE, 0.5, (difference_G > 0).astype(np.float64))


def best_of_n_kl_bound(n: int) -> float:
    """log n - (n-1)/n nats, an upper bound of best-of-n's KL from the sampled policy.  Beirami et al. 2024.

    The bound is exact if no two answers tie and every single answer is very unlikely.
    """
    if n < 1:
        raise UserError(f"best-of-n with n = {n}: n is the number of samples a prompt, at least 1")
    return math.log(n) - (n - 1) / n
