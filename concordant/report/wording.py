"""Writes numbers for people. How many digits a number has is decided in ``core/digits.py``."""

from __future__ import annotations

from concordant.core.digits import (
    FEWEST_FOR_A_SHARE,
    UNKNOWN,
    decimals,
    measured,
    number,
    percent,
    share_error,
    subtraction,
)
from concordant.evaluation.records import LEVEL, Mean, PolicyScores, Scorer

SCORER_NAMES: dict[Scorer, str] = {"gold": "gold", "judge": "the judge", "reward": "the proxy reward"}
FEWEST = 6  # values of an interval; resamples of fewer values are nearly all alike, so their interval says nothing
MOST_FOR_ENDS = 5  # digits after the point of an interval's ends


def told(mean: Mean | None) -> str:
    """The value of a mean, such as "0.79", or of a share, such as "88 %"."""
    if mean is None:
        return UNKNOWN
    return percent(mean.value, mean.count) if mean.is_share else measured(mean.value, mean.error)


def with_interval(mean: Mean | None) -> str:
    """The value and its interval for a table, such as "0.79 [0.76, 0.81]" or "88 % [84, 91]"."""
    ends = _ends(mean)
    return told(mean) + (f" [{ends[0]}, {ends[1]}]" if ends else "")


def with_sentence(mean: Mean | None, level: float = LEVEL) -> str:
    """The value and its interval for a sentence, such as "0.79 (95 % interval 0.76 to 0.81)"."""
    ends = _ends(mean)
    return told(mean) + (f" ({level_name(level)} interval {ends[0]} to {ends[1]})" if ends else "")


def difference(mean: Mean, level: float = LEVEL, text: str = "") -> str:
    """A difference and its interval for a sentence, with signs, such as "+0.35 (95 % interval +0.31 to +0.39)".

    ``text``: the value as text, if it has not the digits that it has alone.
    """
    ends = signed_ends(mean)
    text = signed(text or told(mean), mean.value)
    return text + (f" ({level_name(level)} interval {ends[0]} to {ends[1]})" if ends else "")


def against(mine: Mean, other: Mean, gap: Mean, whose: str, level: float) -> str:
    """Two means and their difference ``gap``, such as "0.79 against sft's 0.44, +0.35 (95 % interval …)"."""
    texts = subtraction(*((mean.value, mean.error) for mean in (mine, other, gap)))
    return f"{texts[0]} against {whose}'s {texts[1]}, {difference(gap, level, texts[2])}"


def signed(text: str, value: float) -> str:
    """``text``, a number, with a plus if it is above zero."""
    return f"+{text}" if value > 0 and not _is_zero(text) else text


def signed_ends(mean: Mean) -> tuple[str, str] | None:
    """Both ends of the interval of a difference, with signs."""
    ends, interval = _ends(mean), mean.interval
    return (signed(ends[0], interval.low), signed(ends[1], interval.high)) if ends and interval else None


def level_name(level: float) -> str:
    return f"{100 * level:.3g} %"


def in_percent(ratio: Mean) -> str:
    """A ratio that may be above 1, and its interval, such as "84 % (95 % interval 78 to 90 %)"."""
    times_100 = ratio.times(100)
    ends = _ends(times_100)
    interval = f" ({level_name(LEVEL)} interval {ends[0]} to {ends[1]} %)" if ends else ""
    return f"{told(times_100)} %{interval}"


def kl(scores: PolicyScores) -> str:
    return f"≤ {number(scores.kl_bound)}" if scores.kl_bound is not None else with_interval(scores.kl)


def _ends(mean: Mean | None) -> tuple[str, str] | None:
    """Both ends of an interval with the digits of its mean; None if there is no interval, or from too few values.

    There is none either if all values are equal, because every resample is then the same.

    If the interval does not hold zero, none of its ends is written as zero: then both ends have more digits.
    """
    if mean is None or mean.interval is None or mean.count < (FEWEST_FOR_A_SHARE if mean.is_share else FEWEST):
        return None
    if mean.interval.low == mean.interval.high:
        return None
    scale, error = (100, 100 * share_error(mean.value, mean.count)) if mean.is_share else (1, mean.error)
    ends, places = (scale * mean.interval.low, scale * mean.interval.high), decimals(error) or 0
    places = max(places, 0) if mean.is_share else places
    if not mean.interval.holds_zero:
        while places < MOST_FOR_ENDS and any(_is_zero(number(end, places)) for end in ends):
            places += 1
    texts = number(ends[0], places), number(ends[1], places)
    return ("0", "0") if _is_zero("".join(texts)) else texts


def _is_zero(text: str) -> bool:
    return not any(digit in "123456789∞" for digit in text)
