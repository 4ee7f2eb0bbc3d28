"""A number is told with no more digits than its sample supports."""

from __future__ import annotations

import math

import pytest

from concordant.core.digits import decimals, measured, number, percent, share, share_error, subtraction


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0.8823, 0.0078, "0.882"),
        (0.8823, 0.03, "0.88"),
        (0.8823, 0.096, "0.9"),  # 0.096 counts as 0.1
        (-1.74, 0.1, "−1.7"),
        (1234.6, 20.0, "1230"),
        (0.98765, 0.00001, "0.988"),  # never more than three digits after the point
        (0.61, None, "0.6"),  # one value alone: its error is not known
        (48.0, 0.0, "48"),  # all values are equal
        (1 / 3, 0.0, "0.333"),
        (1e-9, 1e-8, "0"),  # rounding
        (math.inf, None, "∞"),
        (None, None, "–"),
    ],
)
def test_the_last_digit_stands_at_the_first_digit_of_the_error(value, error, text):
    assert measured(value, error) == text


def test_one_pair_is_told_as_one_pair():
    assert (share(1.0, 1), share(0.5, 1), share(7 / 9, 9)) == ("1 of 1", "0.5 of 1", "7 of 9")
    assert (percent(1.0, 1), percent(None, 1)) == ("1 of 1", "–")


@pytest.mark.parametrize(
    ("value", "count", "told", "told_in_percent"),
    [
        (0.7, 10, "0.7", "70 %"),
        (0.75, 40, "0.75", "75 %"),
        (0.882, 1720, "0.882", "88.2 %"),
        (1.0, 20, "1.00", "100 %"),
        (0.0, 40, "0.00", "0 %"),
    ],
)
def test_more_cases_support_more_digits(value, count, told, told_in_percent):
    assert (share(value, count), percent(value, count)) == (told, told_in_percent)


def test_a_share_of_one_in_five_cases_is_not_certain():
    # seven successes of nine after two successes and two failures are added: √(7/9 · 2/9 / 9)
    assert share_error(1.0, 5) == pytest.approx(math.sqrt(14 / 81 / 9))
    assert decimals(share_error(1.0, 5)) == 1


def test_no_error_gives_no_number_of_digits():
    assert [decimals(error) for error in (None, 0.0, math.nan, math.inf)] == [None] * 4


def test_no_minus_stands_before_a_zero():
    assert (number(-0.001), number(-0.5), number(math.nan)) == ("0.00", "−0.50", "–")


@pytest.mark.parametrize(
    ("values", "errors", "texts"),
    [
        ((0.79, 0.44), (0.01, 0.01, 0.02), ("0.79", "0.44", "0.35")),
        # by two digits 0.79 - 0.45 would be 0.35
        ((0.794, 0.446), (0.01, 0.01, 0.02), ("0.794", "0.446", "0.348")),
        # by two digits 0.79 - 0.45 would be 0.35, and by three 0.795 - 0.445 would be 0.349
        ((0.7946, 0.4454), (0.01, 0.01, 0.02), ("0.7946", "0.4454", "0.3492")),
        # the same prompts: the difference is known better than the means
        ((0.7901, 0.4402), (0.03, 0.03, 0.004), ("0.790", "0.440", "0.350")),
        ((-1.25, 1.13), (0.02, 0.02, 0.02), ("−1.25", "1.13", "−2.38")),
        ((1234.0, 900.0), (50.0, 50.0, 60.0), ("1230", "900", "330")),
        ((0.5, 0.9), (None, None, None), ("0.5", "0.9", "−0.4")),
        ((0.0, 0.0), (0.0, 0.0, 0.0), ("0", "0", "0")),
    ],
)
def test_a_shown_difference_is_that_of_the_shown_numbers(values, errors, texts):
    numbers = [*values, values[0] - values[1]]
    assert subtraction(*zip(numbers, errors, strict=True)) == texts


def test_rounding_is_never_seen_in_a_difference():
    for i in range(2_000):
        first, second = math.sin(i), math.cos(3 * i)
        error = 10.0 ** -(i % 4)
        texts = subtraction((first, error), (second, error), (first - second, error))
        told = [round(1e6 * float(text.replace("−", "-"))) for text in texts]
        assert told[0] - told[1] == told[2], texts
