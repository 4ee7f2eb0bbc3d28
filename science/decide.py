"""From the numbers of several seeds to a verdict: reproduced, not reproduced, or undecided at this size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

STUDENT_T = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}  # of 95 %, by seeds
REPRODUCED, NOT_REPRODUCED, UNDECIDED = "reproduced", "not reproduced", "undecided"


@dataclass(frozen=True, slots=True)
class Decision:
    """A number with its 95 % interval over seeds, and what follows for the threshold of a test."""

    value: float
    low: float
    high: float
    threshold: str  # as it is shown, such as "above 0"
    verdict: str


def above(values: Sequence[float], threshold: float = 0.0) -> Decision:
    """Reproduced if the whole interval of the mean is above ``threshold``; not reproduced if the whole one is below."""
    middle = mean(values)
    half = STUDENT_T[len(values)] * stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("inf")
    low, high = middle - half, middle + half
    verdict = REPRODUCED if low > threshold else NOT_REPRODUCED if high < threshold else UNDECIDED
    return Decision(middle, low, high, f"above {threshold:g}", verdict)


def mean_is(values: Sequence[float], least: float | None = None, most: float | None = None) -> Decision:
    """The mean is at least ``least``, or at most ``most``."""
    found = above(values)
    bound = least if least is not None else most
    assert bound is not None
    holds = found.value >= bound if least is not None else found.value <= bound
    outside = found.high < bound if least is not None else found.low > bound
    verdict = REPRODUCED if holds else NOT_REPRODUCED if outside else UNDECIDED
    return Decision(
        found.value, found.low, found.high, f"at {'least' if least is not None else 'most'} {bound:g}", verdict
    )


def inside(values: Sequence[float], margin: float) -> Decision:
    """Reproduced if the whole interval is within ``margin`` of 0; not reproduced if all of it is outside."""
    found = above(values)
    inner, outer = max(abs(found.low), abs(found.high)) <= margin, found.low > margin or found.high < -margin
    verdict = REPRODUCED if inner else NOT_REPRODUCED if outer else UNDECIDED
    return Decision(found.value, found.low, found.high, f"within {margin:g} of 0", verdict)


def every(values: Sequence[float], least: float | None = None, most: float | None = None) -> Decision:
    """Every value is at least ``least``, or at most ``most``: shown is the worst one, with the range of all values."""
    worst, bound = (min(values), least) if least is not None else (max(values), most)
    assert bound is not None
    holds = worst >= bound if least is not None else worst <= bound
    words = f"always at {'least' if least is not None else 'most'} {bound:g}"
    return Decision(worst, min(values), max(values), words, REPRODUCED if holds else NOT_REPRODUCED)
