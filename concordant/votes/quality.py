"""How far each rater can be trusted: answers to pairs whose answer is known, and the habit of taking one side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from concordant.evaluation.records import Mean
from concordant.evaluation.wilson import share_of
from concordant.votes.rows import Pair, Vote


@dataclass(frozen=True, slots=True, kw_only=True)
class Rater:
    """What one rater did."""

    name: str
    votes: int  # verdicts; skipped pairs are not among them
    skipped: int
    ties: int  # ties and "both bad"
    gold: Mean | None  # share of the gold pairs that were answered as is known; None without one
    left: Mean | None  # share of the left answer among the chosen ones
    seconds: float | None  # median time between two votes of this rater; None for fewer than two


def left_share(votes: Iterable[Vote]) -> Mean | None:
    """The share of the left answer among the chosen answers, with Wilson's interval; None without a choice.

    Each rater sees the two answers of each pair in random order. So a rater who only reads the answers chooses the left
    one in half of the cases, whatever the answers are. Every vote has a coin of its own, so that votes are independent.
    """
    sides = [vote.side for vote in votes if vote.side in ("left", "right")]
    return share_of(sides.count("left"), len(sides))


def position_bias(votes: Iterable[Vote]) -> Mean | None:
    """2·P(left) - 1: the share of votes that went to the left for being there, less those to the right.

    If a rater takes the left answer without reading in a share b of the votes and reads in all others, P(left) = b +
    (1 - b)/2. So 2·P(left) - 1 is b, and its interval is twice that of P(left).
    """
    share = left_share(votes)
    if share is None or share.interval is None:
        return None
    interval = type(share.interval)(2 * share.interval.low - 1, 2 * share.interval.high - 1)
    error = None if share.error is None else 2 * share.error
    return Mean(value=2 * share.value - 1, error=error, count=share.count, interval=interval)


def on_gold(pairs: Iterable[Pair], votes: Iterable[Vote]) -> Mean | None:
    """The share of verdicts on gold pairs that name the known answer, with Wilson's interval. A tie is a miss."""
    known = {pair.id: pair.gold for pair in pairs if pair.gold is not None}
    right = [vote.choice == known[vote.pair] for vote in votes if vote.pair in known and vote.is_verdict]
    return share_of(sum(right), len(right))


def raters_of(pairs: Sequence[Pair], votes: Sequence[Vote]) -> list[Rater]:
    """Every rater who voted, by name."""
    found = []
    for name in sorted({vote.rater for vote in votes}):
        own = [vote for vote in votes if vote.rater == name]
        found.append(
            Rater(
                name=name,
                votes=sum(vote.is_verdict for vote in own),
                skipped=sum(vote.choice == "skip" for vote in own),
                ties=sum(vote.choice in ("tie", "bad") for vote in own),
                gold=on_gold(pairs, own),
                left=left_share(own),
                seconds=_median_wait(own),
            )
        )
    return found


def _median_wait(votes: Sequence[Vote]) -> float | None:
    times = sorted(vote.cast for vote in votes)
    waits = sorted(b - a for a, b in zip(times, times[1:], strict=False))
    return waits[len(waits) // 2] if waits else None
