"""A judge in words compares two answers: both orders of every pair are asked, and what came of each pair is counted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from concordant.data.dialogue import Messages
from concordant.data.records import Pair
from concordant.evaluation.records import Mean
from concordant.feedback import questions
from concordant.feedback.labels import TIE, Compared, trust_of
from concordant.feedback.principles import Principle, principles_for
from concordant.feedback.writers import Answered, Skip
from concordant.report.wording import with_sentence

UNREADABLE = "an answer of the judge without a verdict"
FLIP = "each order preferred the same place"
_TOLD = {
    "first_place": "of the verdicts prefer the answer in the first place (fair: 50 %)",
    "flips": "of the pairs decided in both orders changed with the order",
    "ties": "of the pairs are ties, those that changed with the order among them",
    "agreement": "of the labelled pairs have the label that the data gives them",
}


def both_orders(pairs: Sequence[Pair], principles: Sequence[Principle], seed: int) -> list[Messages]:
    """Two questions a pair: ``chosen`` first, then ``rejected`` first; with principles, its prompt draws one."""
    asked = []
    for pair in pairs:
        drawn = principles_for(principles, pair.prompt, 1, seed) if principles else []
        choose = drawn[0].choose if drawn else questions.CHOOSE
        asked.append(questions.comparison(pair.prompt, pair.chosen, pair.rejected, choose))
        asked.append(questions.comparison(pair.prompt, pair.rejected, pair.chosen, choose))
    return asked


def compared(pairs: Sequence[Pair], answers: Sequence[Answered]) -> list[Compared | str]:
    """What the answers to ``both_orders`` say of each pair; the reason where an order has no verdict."""
    verdicts = [None if isinstance(a, Skip) else questions.read_comparison(a.text) for a in answers]
    found: list[Compared | str] = []
    for i, pair in enumerate(pairs):
        first, second = verdicts[2 * i : 2 * i + 2]
        if first is None or second is None:
            found.append(reason_of(answers[2 * i : 2 * i + 2]))
        else:
            found.append(Compared.of(pair, first, second))
    return found


def why_none(found: Compared | str) -> str:
    """Why a pair has no label; "" where it has one."""
    if isinstance(found, str):
        return found
    return "" if found.strength else FLIP if found.flipped else TIE


def reason_of(answers: Sequence[Answered]) -> str:
    """Why answers of the judge give nothing: the first that was skipped, or an unreadable one."""
    return next((a.reason for a in answers if isinstance(a, Skip)), UNREADABLE)


def trust_in(found: Sequence[Compared | str], labelled: bool) -> tuple[dict[str, Any], list[str]]:
    """How far the judge can be trusted, in numbers and sentences. ``labelled``: the pairs had labels to agree with."""
    trust = trust_of([c for c in found if not isinstance(c, str)])
    means: dict[str, Mean | None] = {name: getattr(trust, name) for name in _TOLD if labelled or name != "agreement"}
    numbers = {name: mean.as_json() if mean else None for name, mean in means.items()}
    return numbers, [f"{with_sentence(mean)} {_TOLD[name]}" for name, mean in means.items() if mean is not None]
