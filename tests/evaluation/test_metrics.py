from __future__ import annotations

import math

import numpy as np
import pytest

from concordant.core.errors import UserError
from concordant.evaluation.metrics import best_of_n_kl_bound, distinct, repetition, repetitions, win_points, words


def test_words_are_lower_case_without_punctuation() -> None:
    assert words("The owl's beak -- it isn't BIG, is it?") == ["the", "owl's", "beak", "it", "isn't", "big", "is", "it"]


def test_distinct_by_hand() -> None:
    # words: the owl the fox / the owl; n-grams never cross from one answer to the next
    responses = ["The owl, the fox.", "the OWL!"]
    assert distinct(responses, 1) == 3 / 6
    assert distinct(responses, 2) == 3 / 4  # the-owl owl-the the-fox / the-owl


def test_distinct_of_nothing_is_unknown() -> None:
    assert distinct(["", "..."], 1) is None
    assert distinct(["owl", "fox"], 2) is None


def test_distinct_falls_with_more_of_the_same_text() -> None:
    short, long = distinct(["the owl eats mice"], 1), distinct(["the owl eats mice", "the owl eats fish"], 1)
    assert short is not None and long is not None and long < short


def test_repetition_by_hand() -> None:
    # eight words, five runs of four: thank-you-thank-you three times, you-thank-you-thank twice
    assert repetition(["thank you thank you thank you thank you"]) == 1 - 2 / 5
    assert repetition(["the owl eats mice at night"]) == 0
    # a mean over the answers that have four words: the short one does not count as free of repetition
    assert repetition(["thank you thank you thank you thank you", "no"]) == 1 - 2 / 5
    assert repetition(["yes", ""]) is None


def test_repetitions_have_one_number_for_each_answer() -> None:
    assert repetitions(["thank you thank you thank you thank you", "no", "the owl eats mice"]) == [1 - 2 / 5, None, 0]


def test_repetition_does_not_look_across_answers() -> None:
    assert repetition(["the owl eats mice", "the owl eats mice"]) == 0


def test_ties_are_half_and_so_are_last_bits() -> None:
    mine, theirs = np.array([1.0, 0.0, 0.5, 0.1 + 0.2]), np.array([0.0, 1.0, 0.5, 0.3])
    assert win_points(mine, theirs).tolist() == [1.0, 0.0, 0.5, 0.5]


def test_best_of_n_bound_by_hand() -> None:
    assert best_of_n_kl_bound(1) == 0
    assert best_of_n_kl_bound(4) == pytest.approx(0.6363, abs=1e-4)


def test_best_of_n_bound_holds_and_is_tight_without_ties() -> None:
    # uniform over V answers, all of different quality: P(best of n is the k-th worst) = (k/V)^n - ((k-1)/V)^n
    n, V = 4, 2000
    k = np.arange(1, V + 1)
    p = (k / V) ** n - ((k - 1) / V) ** n
    exact = float((p * np.log(p * V)).sum())
    assert exact <= best_of_n_kl_bound(n) <= exact + 0.002
    # two answers only: the bound is far off, and still a bound
    p = np.array([0.5**n, 1 - 0.5**n])
    assert float((p * np.log(p * 2)).sum()) < best_of_n_kl_bound(n)


def test_best_of_none_is_refused() -> None:
    with pytest.raises(UserError, match="n = 0"):
        best_of_n_kl_bound(0)
    assert math.isfinite(best_of_n_kl_bound(10**6))
