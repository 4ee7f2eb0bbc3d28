"""What a judge's answers say about pairs: labels with strengths, ties, and how far the judge can be trusted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from concordant.data.convert import answers_of, prompt_of
from concordant.data.dialogue import Messages, as_object
from concordant.data.records import Pair, Record
from concordant.evaluation.bootstrap import mean_of
from concordant.evaluation.records import Mean
from concordant.evaluation.wilson import share_of
from concordant.feedback.questions import Marks, Verdict

TIE = "a tie"
BOOTSTRAP = 2_000  # resamples of answers


@dataclass(frozen=True, slots=True)
class Compared:
    """One pair and the two verdicts about it. ``orders`` are from 1 (``chosen`` is better) to -1 (``rejected`` is)."""

    pair: Pair  # as it was given
    orders: tuple[int, int]  # with the chosen answer first, and with the rejected answer first

    @classmethod
    def of(cls, pair: Pair, chosen_first: Verdict, rejected_first: Verdict) -> Compared:
        points = {"first": 1, "second": -1, "tie": 0}
        return cls(pair, (points[chosen_first], -points[rejected_first]))

    @property
    def strength(self) -> float:
        """1: both orders prefer ``chosen``; 0.5: one order does and the other is a tie; 0: a tie, or a flip."""
        return sum(self.orders) / 2

    @property
    def decided_twice(self) -> bool:
        return all(self.orders)

    @property
    def flipped(self) -> bool:
        """Each order preferred another answer, which is the answer in the same place."""
        return self.decided_twice and self.orders[0] != self.orders[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """How far the verdicts of a judge can be trusted. None where no case was counted."""

    first_place: Mean | None  # share of the verdicts without a tie that prefer the answer in the first place
    flips: Mean | None  # share of the pairs decided in both orders, whose verdict changed with the order
    ties: Mean | None  # share of all pairs that end as ties, flips included
    agreement: Mean | None  # share of the labelled pairs whose label the data has too


def trust_of(compared: Sequence[Compared]) -> Trust:
    """The numbers with Wilson's intervals of 95 %. An unprejudiced judge has 0.5 for the first place."""
    verdicts = [(order, place) for c in compared for order, place in zip(c.orders, (1, -1), strict=True) if order]
    decided = [c for c in compared if c.decided_twice]
    labelled = [c for c in compared if c.strength]
    return Trust(
        first_place=share_of(sum(order == place for order, place in verdicts), len(verdicts)),
        flips=share_of(sum(c.flipped for c in decided), len(decided)),
        ties=share_of(len(compared) - len(labelled), len(compared)),
        agreement=share_of(sum(c.strength > 0 for c in labelled), len(labelled)),
    )


def labelled(pair: Pair, strength: float, margin: float) -> Pair:
    """The pair as the judge labels it. ``strength``, from -1 to 1, is above 0 where ``chosen`` is better.

    ``margin`` is the margin of a pair of strength 1; with 0 the pair gets none. The labels of the data are gone.
    """
    lead = abs(strength) * margin if margin else None
    chosen, rejected = (pair.chosen, pair.rejected) if strength > 0 else (pair.rejected, pair.chosen)
    return replace(pair, chosen=chosen, rejected=rejected, margin=lead, probability=None)


def neighbours(records: Sequence[Record], left_out: Counter[str]) -> list[Pair]:
    """The pairs of the data, and of single answers the pairs of neighbours: first and second, third and fourth, …"""
    pairs = [record for record in records if isinstance(record, Pair)]
    for prompt, group in _by_prompt(records).items():
        for first, second in zip(group[::2], group[1::2], strict=False):
            one, other = answers_of(first)[0], answers_of(second)[0]
            if one.strip() == other.strip():
                left_out["equal answers"] += 1
            else:
                pairs.append(Pair(prompt, one, other, tools=first.tools, where=first.where))
        if len(group) % 2:
            left_out["no other answer to the prompt"] += 1
    return pairs


def best_and_worst(
    records: Sequence[Record], numbers: Sequence[Sequence[float | None]], margin: float, left_out: Counter[str]
) -> list[Pair]:
    """Pairs from a number for every answer: the better answer of a pair, and the best and the worst of single answers.

    ``numbers`` has a row for each record, in the order of its answers. An answer without a number is left out. The
    strength of a pair is its difference over the greatest difference of all pairs.
    """
    groups: list[tuple[Record, list[tuple[float, str]]]] = []
    known = dict(zip(map(id, records), numbers, strict=True))
    for record in records:
        if isinstance(record, Pair):
            groups.append((record, _known(record, known[id(record)])))
    for group in _by_prompt(records).values():
        groups.append((group[0], [one for record in group for one in _known(record, known[id(record)])]))
    found: list[tuple[Pair, float]] = []
    for record, answers in groups:
        if len(answers) < 2:
            left_out["no other answer to the prompt that has a score"] += len(answers)
            continue
        best, worst = max(answers, key=lambda one: one[0]), min(answers, key=lambda one: one[0])
        if best[0] == worst[0]:
            left_out[TIE] += 1
            continue
        pair = Pair(prompt_of(record), best[1], worst[1], tools=record.tools, where=record.where)
        found.append((pair, best[0] - worst[0]))
    greatest = max((lead for _, lead in found), default=1.0)
    return [labelled(pair, lead / greatest, margin) for pair, lead in found]


def _by_prompt(records: Sequence[Record]) -> dict[Messages, list[Record]]:
    """The records with one answer, by prompt, in order."""
    groups: dict[Messages, list[Record]] = {}
    for record in records:
        if not isinstance(record, Pair):
            groups.setdefault(prompt_of(record), []).append(record)
    return groups


def _known(record: Record, numbers: Sequence[float | None]) -> list[tuple[float, str]]:
    return [(x, text) for x, text in zip(numbers, answers_of(record), strict=True) if x is not None]


def mean_marks(records: Sequence[Record], marks: Sequence[Sequence[Marks | None]]) -> dict[str, dict[str, Mean]]:
    """Mean helpful and safe marks, with intervals: of chosen and rejected answers, and of single answers."""
    by_column: dict[str, list[Marks]] = {}
    for record, row in zip(records, marks, strict=True):
        names = ("chosen", "rejected") if isinstance(record, Pair) else ("answer",)
        for name, mark in zip(names, row, strict=True):
            if mark is not None:
                by_column.setdefault(name, []).append(mark)
    return {
        name: {
            kind: mean_of(np.array([getattr(mark, kind) for mark in found], float), BOOTSTRAP, 0)
            for kind in ("helpful", "safe")
        }
        for name, found in by_column.items()
    }


def rows_of(pairs: Sequence[Pair]) -> Iterator[dict[str, Any]]:
    """The pairs as rows of a data file."""
    for pair in pairs:
        row: dict[str, Any] = {"prompt": [as_object(m) for m in pair.prompt]}
        row |= {"chosen": pair.chosen, "rejected": pair.rejected}
        row |= {"margin": pair.margin} if pair.margin is not None else {}
        yield row | ({"tools": list(pair.tools)} if pair.tools else {})
