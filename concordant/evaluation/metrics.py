"""Numbers of one policy's answers, and of two policies' answers to the same prompts."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from concordant.core.errors import UserError

# Scores closer than this are a tie: the same quality added up in another order differs in its last bits.
TIE = 1e-9

_WORD = re.compile(r"\w+(?:['’]\w+)*")


def words(text: str) -> list[str]:
    """Lower-cased runs of letters and digits, apostrophes inside kept; punctuation is left out."""
    return _WORD.findall(text.casefold())


def _ngrams(tokens: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]


def distinct(responses: Sequence[str], n: int) -> float | None:
    """Different word n-grams over all word n-grams of all responses, in (0, 1].  Li et al. 2016.

    None when no response has n words. It falls with the amount of text, as any language's vocabulary
    grows slower than its texts: compare policies of like length, or read it beside the length.
    """
    grams = [gram for response in responses for gram in _ngrams(words(response), n)]
    return len(set(grams)) / len(grams) if grams else None


def repetition(responses: Sequence[str], n: int = 4) -> float | None:
    """Share of a response's word n-grams that it has said before, a mean over responses with at least n words.

    0 is no repetition; "thank you thank you thank you thank you" is 0.6. None when no response has n words.
    """
    shares = []
    for response in responses:
        grams = _ngrams(words(response), n)
        if grams:
            shares.append(1 - len(set(grams)) / len(grams))
    return math.fsum(shares) / len(shares) if shares else None


def win_points(scores_P: NDArray[np.float64], baseline_P: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 where the policy's answer scores higher, 0.5 for a tie, 0 where lower, shape (P,)."""
    difference_P = scores_P - baseline_P
    return np.where(np.abs(difference_P) <= TIE, 0.5, (difference_P > 0).astype(np.float64))


def best_of_n_kl_bound(n: int) -> float:
    """log n - (n-1)/n nats: no less than best-of-n's KL from the policy sampled.  Beirami et al. 2024.

    Exact when no two answers tie and no answer has a noticeable probability; a bound always.
    """
    if n < 1:
        raise UserError(f"best-of-n with n = {n}: n is the number of samples a prompt, at least 1")
    return math.log(n) - (n - 1) / n
