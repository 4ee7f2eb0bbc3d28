"""The mean result of best-of-n for every n, from one set of answers. P prompts, N answers to each of them."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]


def best_of(n: int, proxy_PN: Numbers, value_PN: Numbers) -> float:
    """The mean ``value`` of the answer with the highest proxy among n, over all choices of n answers and all prompts.

    Of N answers sorted by proxy, the one of rank i is the best of n in C(i - 1, n - 1) of the C(N, n) choices.
    """
    count = proxy_PN.shape[1]
    order_PN = np.argsort(proxy_PN, axis=1, kind="stable")
    logs = [_log_choose(i - 1, n - 1) - _log_choose(count, n) if i >= n else -math.inf for i in range(1, count + 1)]
    return float((np.take_along_axis(value_PN, order_PN, axis=1) * np.exp(logs)).sum(1).mean())


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
