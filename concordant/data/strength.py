"""How sure people were of a pair's label: from votes, a probability or a margin to a soft label or a lead."""

from __future__ import annotations

import math
from collections.abc import Sequence

from concordant.data.records import Pair

VOTES = ("votes_chosen", "votes_rejected", "votes_tie")  # columns: how many people said what
_SURE = 0.99  # the most that a label counts as, where its log-odds are needed
TIED = "a tie; --strength label learns from ties"


def share_of_votes(chosen: float, rejected: float, tie: float = 0.0) -> float:
    """P(chosen preferred) by Laplace's rule of succession: (chosen + tie/2 + 1) / (all + 2).

    One vote of one person gives 2/3, three of three give 4/5, and as many on both sides give 1/2.
    """
    return (chosen + tie / 2 + 1) / (chosen + rejected + tie + 2)


def label_of(pair: Pair) -> float | None:
    """P(chosen preferred) as far as the data says; None where it says nothing."""
    return pair.probability


def lead_of(pair: Pair) -> float | None:
    """Reward units by which the chosen answer leads: the data's margin, or else the log-odds of the label.

    By Bradley and Terry a lead of m has P(chosen preferred) = σ(m). None where the data says nothing, 0 at the least.
    """
    if pair.margin is not None:
        return max(0.0, pair.margin)
    if pair.probability is None:
        return None
    sure = min(pair.probability, _SURE)
    return max(0.0, math.log(sure / (1 - sure))) if sure > 0 else 0.0


def is_tie(pair: Pair) -> bool:
    """Whether people liked both answers as much, so that which one is called chosen says nothing."""
    return pair.probability == 0.5


def without_ties(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs whose label says something."""
    return [pair for pair in pairs if not is_tie(pair)]
