"""Wilson's interval of a share of cases."""

from __future__ import annotations

from statistics import NormalDist

from concordant.core.digits import share_error
from concordant.evaluation.records import LEVEL, Interval, Mean


def share_of(hits: float, cases: int, level: float = LEVEL) -> Mean | None:
    """The share ``hits / cases`` with its interval; None without a case.  Wilson 1927.

    The interval holds the shares p for which hits/cases lies within z standard errors √(p(1-p)/cases) of p. It is never
    outside 0 to 1, and it has a width for 0 and for ``cases`` hits too. Ties may count half.
    """
    if not cases:
        return None
    share, z = hits / cases, NormalDist().inv_cdf((1 + level) / 2)
    middle = (share + z * z / (2 * cases)) / (1 + z * z / cases)
    arm = z / (1 + z * z / cases) * (share * (1 - share) / cases + z * z / (4 * cases * cases)) ** 0.5
    low, high = (middle - arm if hits else 0.0), (middle + arm if hits < cases else 1.0)  # exact, without rounding
    interval = Interval(max(0.0, low), min(1.0, high))
    return Mean(value=share, error=share_error(share, cases), count=cases, interval=interval, is_share=True)
