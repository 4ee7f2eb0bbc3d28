"""Who says which of two answers is better: toytalk's gold judge, a reward, a judge in words (a server or a chat model),
or people whose votes stand in a file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from concordant.algorithms.reward_sources import wanted_columns
from concordant.algorithms.rewards import Answer
from concordant.config.collect import CollectConfig
from concordant.config.specs import GOLD, is_address, is_votes, may_answer_in_words
from concordant.core.counted import counted
from concordant.core.errors import UserError
from concordant.data.carried import NOTHING, Wanted
from concordant.data.records import Pair, Prompt
from concordant.evaluation.metrics import win_points
from concordant.feedback.comparing import both_orders, compared, trust_in, why_none
from concordant.feedback.principles import Principle, read_principles
from concordant.feedback.writers import Asking
from concordant.models.load import load_config
from concordant.models.locate import kind_of, locate, made_as
from concordant.stages import asking as shared
from concordant.stages import common
from concordant.stages.rewarding import Rewards

Verdict = Literal["first", "second", "tie"]
VOTES: dict[str, Verdict | None] = {"a": "first", "b": "second", "tie": "tie", "skip": None}


@dataclass(frozen=True, slots=True)
class Candidate:
    """Two answers to one prompt, not labelled yet. A policy gave both in the same way, so their order says nothing."""

    id: str  # a hash of the prompt and both answers, so that a vote can never belong to another pair
    first: Answer
    second: Answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What a judge says of pairs."""

    verdicts: Sequence[Verdict | None]  # None where it has none
    reasons: Mapping[int, str] = field(default_factory=dict)  # by number: why a pair has no verdict, or is a tie
    asking: Asking | None = None  # of a judge in words: what it was asked
    trust: Mapping[str, Any] = field(default_factory=dict)  # of a judge in words: how far it can be trusted
    notes: Sequence[str] = ()  # the same in sentences

    @property
    def stopped(self) -> str:
        """Why the judge answers no more questions in this command; "" as long as it does."""
        return self.asking.writer.stopped if self.asking else ""


Choose = Callable[[Sequence[Candidate]], Judged]
Numbers = Callable[[Sequence[Answer]], Sequence[float | None]]


def wanted_of(config: CollectConfig) -> Wanted:
    """The columns of the data that the judge is called with."""
    judge = config.judge
    return NOTHING if judge == GOLD or is_votes(judge) or _in_words(config) else wanted_columns([judge])


def open_judge(config: CollectConfig, prompts: Sequence[Prompt], columns: Sequence[str]) -> Choose:
    """The judge that ``config.judge`` names. ``columns`` are those that the data has."""
    if is_votes(config.judge):
        if Path(config.judge).resolve().is_relative_to(Path(config.output).resolve()):
            raise UserError(
                f"judge: {config.judge} stands in {config.output}, which a pipeline empties before it runs the stage "
                "again; keep votes in another folder"
            )
        return lambda pairs: Judged(verdicts=by_votes(read_votes(Path(config.judge)), pairs))
    if config.judge == GOLD:
        gold = common.gold_of(config.data)
        if gold is None:
            raise UserError(
                f"judge gold: the true quality is known for builtin:toytalk alone, not for {config.data.path}"
            )
        return lambda pairs: Judged(
            verdicts=by_numbers(lambda answers: [gold(a.prompt, a.response) for a in answers], pairs)
        )
    if _in_words(config):
        principles = read_principles(config.principles) if config.principles else []
        asking = shared.open_judge(config, replace(config.model, adapter=""), Path(config.output))
        return lambda pairs: by_words(asking, pairs, principles, config.seed)
    if config.principles or config.max_answer_tokens != CollectConfig.max_answer_tokens:
        raise UserError(
            f"judge: {config.judge} is a reward model, which answers no question in words; leave principles and "
            "max_answer_tokens out, or name a chat model"
        )
    rewards = Rewards([config.judge], config.model)
    rewards.check(prompts, columns)

    def numbers(answers: Sequence[Answer]) -> Sequence[float | None]:
        with common.watched("judge"):
            (given,) = rewards.reward(answers).result().given.values()
        return given

    return lambda pairs: Judged(verdicts=by_numbers(numbers, pairs))


def _in_words(config: CollectConfig) -> bool:
    """Whether the judge answers questions in words: a server, or a model that was made to write text."""
    if is_address(config.judge):
        return True
    if not may_answer_in_words(config.judge):
        return False
    place = locate(config.judge)
    if isinstance(place, Path):
        return kind_of(place) == "policy"
    return made_as(str(load_config(place, config.model.trust_remote_code).architectures)) == "policy"


def by_words(asking: Asking, pairs: Sequence[Candidate], principles: Sequence[Principle], seed: int) -> Judged:
    """The answer that both orders of the question prefer, or one order where the other is a tie.

    Two ties are a tie, and so are orders that contradict each other. A pair has no verdict where a question has none.
    """
    asked = [Pair(p.first.prompt, p.first.response, p.second.response, tools=p.first.tools) for p in pairs]
    found = compared(asked, shared.ask(asking, both_orders(asked, principles, seed), "judge"))
    trust, notes = trust_in(found, labelled=False)
    return Judged(
        verdicts=[
            None if isinstance(c, str) else "first" if c.strength > 0 else "second" if c.strength else "tie"
            for c in found
        ],
        reasons={i: why for i, c in enumerate(found) if (why := why_none(c))},
        asking=asking,
        trust=trust,
        notes=notes,
    )


def by_numbers(numbers: Numbers, pairs: Sequence[Candidate]) -> list[Verdict | None]:
    """The answer with the higher number is better; numbers that differ by rounding alone tie, and None abstains."""
    given = numbers([answer for pair in pairs for answer in (pair.first, pair.second)])
    both = [i for i in range(len(pairs)) if given[2 * i] is not None and given[2 * i + 1] is not None]
    verdicts: list[Verdict | None] = [None] * len(pairs)
    if both:
        first_P, second_P = (np.array([given[2 * i + place] for i in both], np.float64) for place in (0, 1))
        named: dict[float, Verdict] = {1.0: "first", 0.5: "tie", 0.0: "second"}
        for i, points in zip(both, win_points(first_P, second_P), strict=True):
            verdicts[i] = named[float(points)]
    return verdicts


def by_votes(votes: dict[str, Counter[str]], pairs: Sequence[Candidate]) -> list[Verdict | None]:
    """The answer with more votes is better, and equally many votes tie; None where nobody voted, or all skipped."""
    verdicts: list[Verdict | None] = []
    for pair in pairs:
        found = votes.get(pair.id, Counter())
        lead = found["a"] - found["b"]
        decided = found["a"] + found["b"] + found["tie"]
        verdicts.append(("first" if lead > 0 else "second" if lead < 0 else "tie") if decided else None)
    others = votes.keys() - {pair.id for pair in pairs}
    if others:
        common.message(f"votes: {counted(len(others), 'other pair')}, of other rounds for example, not read here")
    return verdicts


def read_votes(path: Path) -> dict[str, Counter[str]]:
    """The votes on each pair, by its id; none if there is no file yet. Raises UserError for a line that is no vote."""
    votes: dict[str, Counter[str]] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    except (OSError, UnicodeDecodeError) as problem:
        raise UserError(f"judge: cannot read {path}: {getattr(problem, 'strerror', None) or 'no UTF-8 text'}") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            name, vote = _vote(line, f"{path} line {number}")
            votes.setdefault(name, Counter())[vote] += 1
    return votes


def _vote(line: str, where: str) -> tuple[str, str]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict) or not isinstance(row.get("id"), str):
        raise UserError(f'{where}: expected {{"id": "…", "vote": "a"}}, the id from to_label.jsonl')
    if row.get("vote") not in VOTES:
        raise UserError(f'{where}: "vote" must be one of {", ".join(VOTES)}; given {json.dumps(row.get("vote"))[:40]}')
    return row["id"], row["vote"]
