"""Votes as files: pairs that every trainer takes, and single votes as ``concordant collect`` reads them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from concordant.data.convert import as_dict
from concordant.data.strength import VOTES
from concordant.votes.rows import NewPair, Pair, Vote
from concordant.votes.schema import STRENGTHS

_LETTER = {"first": "a", "second": "b", "tie": "tie", "bad": "tie", "skip": "skip"}
_UNSAID = 2  # the strength of a choice whose rater gave none: the middle one


def pair_rows(
    pairs: Sequence[Pair], votes: Sequence[Vote], left_out: Counter[str], keep_ties: bool = False, margin: float = 0.0
) -> Iterator[dict[str, Any]]:
    """``prompt``, ``chosen``, ``rejected`` of every pair that got a verdict; ``left_out`` counts the others by reason.

    The answer with more votes is the chosen one. ``votes_chosen``, ``votes_rejected`` and ``votes_tie`` count the
    verdicts; `data/strength.py` makes a soft label of them. A pair that ties as a whole is left out, or is written with
    ``keep_ties``. ``margin``, above 0, is written for a pair that all raters call much better (strength 3): it is
    multiplied by the mean over the votes of strength / 3, which counts against the chosen answer where a vote does, and
    is 0 at the least. Gold pairs are never exported.
    """
    by_pair: dict[int, list[Vote]] = {}
    for vote in votes:
        by_pair.setdefault(vote.pair, []).append(vote)
    for pair in pairs:
        own = by_pair.get(pair.id, [])
        verdicts = [vote for vote in own if vote.is_verdict]
        counts = Counter(vote.choice for vote in verdicts)
        lead = counts["first"] - counts["second"]
        if pair.gold is not None:
            left_out["gold pairs, which test raters"] += 1
        elif not verdicts:
            left_out["skipped by all raters" if own else "no vote"] += 1
        elif counts["bad"] * 2 > len(verdicts):
            left_out["both answers are bad"] += 1
        elif not lead and not keep_ties:
            left_out["a tie"] += 1
        else:
            yield _row(pair, verdicts, lead >= 0, margin)


def _row(pair: Pair, verdicts: Sequence[Vote], is_first: bool, margin: float) -> dict[str, Any]:
    answers, policies = [pair.first, pair.second], [pair.first_policy, pair.second_policy]
    if not is_first:
        answers, policies = answers[::-1], policies[::-1]
    row: dict[str, Any] = {"prompt": pair.prompt, "chosen": answers[0], "rejected": answers[1]}
    signs = [_sign(vote) * (1 if is_first else -1) for vote in verdicts]
    row |= dict(zip(VOTES, (signs.count(1), signs.count(-1), signs.count(0)), strict=True))
    if margin > 0:
        strengths = [(vote.strength or _UNSAID) / max(STRENGTHS) for vote in verdicts]
        mean = sum(sign * strength for sign, strength in zip(signs, strengths, strict=True)) / len(signs)
        row["margin"] = max(0.0, round(margin * mean, 6))
    row["id"] = pair.key
    if any(policies):
        row |= {"chosen_policy": policies[0], "rejected_policy": policies[1]}
    return row | ({"tools": pair.tools} if pair.tools else {})


def _sign(vote: Vote) -> int:
    return {"first": 1, "second": -1}.get(vote.choice, 0)


def vote_rows(pairs: Sequence[Pair], votes: Sequence[Vote]) -> Iterator[dict[str, Any]]:
    """``id`` and ``vote`` of every vote that counts, as ``concordant collect --judge FILE.jsonl`` reads them.

    "Both bad" becomes a tie there. ``side`` and ``reason`` are for people. Gold pairs are left out.
    """
    known = {pair.id: pair.key for pair in pairs if pair.gold is None}
    for vote in votes:
        if vote.pair in known:
            row: dict[str, Any] = {"id": known[vote.pair], "vote": _LETTER[vote.choice], "rater": vote.rater}
            row |= {"both_bad": True} if vote.choice == "bad" else {}
            row |= {"strength": vote.strength} if vote.strength else {}
            row |= {"reason": vote.reason} if vote.reason else {}
            yield row | {"side": vote.side}


def rows_to_label(pairs: Sequence[NewPair]) -> Iterator[dict[str, Any]]:
    """The pairs as ``to_label.jsonl`` has them, with their policies; of a gold pair the better answer too."""
    for pair in pairs:
        row: dict[str, Any] = {"id": pair.key, "prompt": as_dict(pair.prompt), "a": pair.first, "b": pair.second}
        if pair.first_policy or pair.second_policy:
            row |= {"policy_a": pair.first_policy, "policy_b": pair.second_policy}
        yield row | ({"gold": _LETTER[pair.gold]} if pair.gold else {})
