"""How many digits of a measured number are shown: no more than its sample supports.

The last digit shown stands at the place of the first digit of the standard error, so that 0.8823 with an error of 0.008
is shown as 0.882, and with an error of 0.03 as 0.88.
"""

from __future__ import annotations

import math
from decimal import Decimal

Measured = tuple[float, float | None]  # a number and its standard error, as `measured` takes them
UNKNOWN = "–"
MOST = 3  # digits after the point, however small the error is
FEWEST_FOR_A_SHARE = 10  # a share of fewer cases is shown as a count, such as "7 of 9"


def decimals(error: float | None) -> int | None:
    """Digits after the point of a number with this standard error; negative for places before the point.

    None if the error is not known, or 0 because all values are equal.
    """
    if error is None or not 0 < error < math.inf:
        return None
    return min(MOST, -int(f"{error:.0e}".partition("e")[2]))  # the exponent after rounding, so that 0.096 counts as 0.1


def share_error(share: float, count: int) -> float:
    """The standard error of a share of ``count`` cases, above 0 also for shares of 0 and 1.  Agresti & Coull 1998.

    Two successes and two failures are added, because a share of 1 in five cases does not mean that the share is known.
    """
    adjusted = (share * count + 2) / (count + 4)
    return math.sqrt(adjusted * (1 - adjusted) / (count + 4))


def number(x: float | None, digits: int = 2) -> str:
    """A number as text, such as 1.23 or −0.50: a dash if the number is not known, and no minus before a zero.

    A negative number of ``digits`` rounds to tens, hundreds and so on.
    """
    if x is None or math.isnan(x):
        return UNKNOWN
    if math.isinf(x):
        return "∞" if x > 0 else "−∞"
    text = f"{round(abs(x), digits):.{max(digits, 0)}f}"
    return "−" + text if x < 0 and float(text) != 0 else text


def subtraction(minuend: Measured, subtrahend: Measured, difference: Measured) -> tuple[str, str, str]:
    """Two numbers and their difference as texts. The difference of the two shown numbers is the shown difference.

    All three texts have as many digits as the number that supports most. If rounding makes them disagree, as with
    0.794 - 0.446 = 0.348, shown as 0.79 - 0.45 = 0.35, then all three have more digits. All numbers are finite.
    """
    numbers = (minuend, subtrahend, difference)
    places = max(_places(value, error) for value, error in numbers)
    for more in range(12):  # rounding disagrees in one case of four, so two more digits suffice almost always
        first, second, third = (number(value, places + more) for value, _ in numbers)
        if _exact(first) - _exact(second) == _exact(third):
            break
    return first, second, third


def _exact(text: str) -> Decimal:
    return Decimal(text.replace("−", "-"))


def _places(x: float, error: float | None) -> int:
    """Digits after the point of a finite number; negative for places before the point."""
    places = decimals(error)
    return places if places is not None else _needed(x, _significant(error))


def _significant(error: float | None) -> int:
    """Significant digits of a number whose error is not known (None), or 0 because all values are equal."""
    return 1 if error is None else 3


def measured(x: float | None, error: float | None) -> str:
    """A number with as many digits as its standard error supports.

    A number of unknown error, such as the mean of one value, has one significant digit. If all values are equal (error
    0), their value is shown with at most three significant digits.
    """
    if x is None or not math.isfinite(x):
        return number(x)
    places = decimals(error)
    if places is not None:
        text = number(x, places)
        return "0" if places == MOST and float(text.replace("−", "-")) == 0 else text
    significant = _significant(error)
    return number(float(f"{x:.{significant}g}"), _needed(x, significant))


def _needed(x: float, significant: int) -> int:
    """Digits after the point that show ``x`` with so many significant digits, without zeros at the end."""
    text = f"{float(f'{x:.{significant}g}'):.{MOST}f}".rstrip("0")
    return len(text.partition(".")[2])


def share(x: float | None, count: int) -> str:
    """A share of ``count`` cases, such as 0.88, or "7 of 9" for fewer than ten cases."""
    if x is None or count < FEWEST_FOR_A_SHARE:
        return UNKNOWN if x is None else f"{x * count:.3g} of {count}"
    return number(x, decimals(share_error(x, count)) or 0)


def percent(x: float | None, count: int) -> str:
    """The same as ``share`` in percent, such as "88 %" or "88.2 %"."""
    if x is None or count < FEWEST_FOR_A_SHARE:
        return share(x, count)
    return f"{number(100 * x, (decimals(share_error(x, count)) or 0) - 2)} %"
