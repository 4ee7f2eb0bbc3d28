"""Writes numbers for people."""

from __future__ import annotations

from concordant.evaluation.records import Gain, Interval, PolicyScores, Scorer

UNKNOWN = "–"
SCORER_NAMES: dict[Scorer, str] = {"gold": "gold", "judge": "the judge", "reward": "the proxy reward"}


def number(x: float | None, digits: int = 2) -> str:
    """A number as text, such as 1.23 or −0.50: a dash if the number is not known, and no minus before a zero."""
    if x is None:
        return UNKNOWN
    text = f"{abs(x):.{digits}f}"
    return "−" + text if x < 0 and float(text) != 0 else text


def signed(x: float | None, digits: int = 2) -> str:
    """A number as text, with a plus if it is above zero."""
    text = number(x, digits)
    return "+" + text if x is not None and x > 0 and float(text) != 0 else text


def percent(x: float | None) -> str:
    return UNKNOWN if x is None else f"{number(100 * x, 0)} %"


def percent_between(interval: Interval | None) -> str:
    return "" if interval is None else f"{number(100 * interval.low, 0)} to {number(100 * interval.high, 0)} %"


def between(interval: Interval | None, digits: int = 2) -> str:
    return "" if interval is None else f"{signed(interval.low, digits)} to {signed(interval.high, digits)}"


def win_rate(scores: PolicyScores) -> str:
    """The rate and its interval, short enough for a table, such as "84 % (81–88)"."""
    x = scores.win_interval
    return percent(scores.win_rate) + ("" if x is None else f" ({number(100 * x.low, 0)}–{number(100 * x.high, 0)})")


def kl(scores: PolicyScores) -> str:
    return ("≤ " if scores.kl_is_bound and scores.kl is not None else "") + number(scores.kl)


def within_noise(gain: Gain) -> bool:
    """True if zero is inside the interval of the gain."""
    return gain.interval is not None and gain.interval.low <= 0 <= gain.interval.high
