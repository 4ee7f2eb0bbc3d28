"""Rewards of PPO, best-of-n and evaluation: named axes, each a model, a rule or any Python function, and an
aggregator that makes one number of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import torch

from concordant.config.names import EnsembleName
from concordant.core.ensembles import ENSEMBLES, disagreement
from concordant.data.convert import as_dict
from concordant.data.records import Message, Tools
from concordant.engines.protocol import Future
from concordant.runs.metrics import AXIS, DISAGREEMENT

Dialogue = tuple[Message, ...]
# Why an answer of several turns ended: the environment had nothing to reply; a turn of the policy had no end; the
# policy had its last turn; the model could not read a further reply; the environment failed.
Stopped = Literal["finished", "length", "turns", "context", "error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """What was said in an answer of several turns, by the policy and by its environment."""

    turns: tuple[Message, ...]  # the last one is the policy's
    stopped: Stopped
    score: float | None = None  # the environment's own
    cut: int = 0  # replies that were cut because they were too long

    def as_row(self) -> dict[str, Any]:
        """Its part of a row of a file, without ``cut``."""
        return {"turns": as_dict(self.turns), "stopped": self.stopped, "score": self.score}

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Episode:
        """What ``as_row`` gave. Raises KeyError or TypeError for another row."""
        return cls(turns=tuple(Message(**m) for m in row["turns"]), stopped=row["stopped"], score=row["score"])


@dataclass(frozen=True, slots=True)
class Answer:
    """What a reward may look at."""

    prompt: Dialogue
    response: str  # text without the end token or stop string; of several turns the policy's last one
    ended: bool  # an end token was sampled, or a stop string completed; of several turns, the environment was done
    extra: dict[str, Any]  # the prompt's own columns: ground_truth, data_source, …
    tools: Tools = None  # the prompt's, for a reward model's chat template
    episode: Episode | None = None  # None without an environment

    @property
    def before(self) -> Dialogue:
        """What stands before the response: the prompt, and the earlier turns of an answer that has several."""
        return self.prompt if self.episode is None else (*self.prompt, *self.episode.turns[:-1])

    @property
    def failed(self) -> bool:
        """Whether the environment failed, so that no reward is asked and nothing is learnt."""
        return self.episode is not None and self.episode.stopped == "error"


class Axis(Protocol):
    """One thing that an answer is judged by."""

    def __call__(self, answers: Sequence[Answer]) -> Future[Sequence[float | None]]:
        """One number for each answer, where a higher number is better; None abstains."""
        ...


@runtime_checkable
class Members(Protocol):
    """Several members of an ensemble that one pass scores, such as the heads of a reward model."""

    @property
    def members(self) -> int: ...

    def columns(self, answers: Sequence[Answer]) -> list[Future[Sequence[float | None]]]:
        """The scores of every member, each as an ``Axis`` gives them."""
        ...


def columns_of(name: str, axis: Axis | Members) -> list[str]:
    """The names of the columns of the axis ``name``."""
    return head_names(name, axis.members) if isinstance(axis, Members) else [name]


def head_names(name: str, heads: int) -> list[str]:
    return [f"{name} head {number}" for number in range(1, heads + 1)]


Columns = Mapping[str, Sequence[float]]  # by axis, one number an answer
Aggregator = Callable[[Columns], list[float]]


@dataclass(frozen=True)
class WeightedSum:
    """The aggregator that ``--reward A=2 --reward B=-0.5`` asks for."""

    weights: Mapping[str, float]  # by axis

    def __call__(self, columns: Columns) -> list[float]:
        rows = zip(*(columns[axis] for axis in self.weights), strict=True)
        return [sum(w * x for w, x in zip(self.weights.values(), row, strict=True)) for row in rows]


@dataclass(frozen=True, kw_only=True)
class NamedAxes:
    """The aggregator of axes that people gave names, each of one source or of an ensemble of several.

    First the members of every axis become one number, then the axes are summed with their weights.
    """

    members: Mapping[str, tuple[str, ...]]  # by name; the columns of its members
    weights: Mapping[str, float]  # by name
    ensemble: EnsembleName  # how several members become one number
    deviations: float = 1.0  # of "mean-std"

    def axes(self, columns: Columns) -> dict[str, list[float]]:
        """One number an answer for each name."""
        return {name: self._one(columns, members) for name, members in self.members.items()}

    def disagreement(self, columns: Columns) -> list[float] | None:
        """For each answer the mean over ensembles of the deviation between members; None if there is no ensemble."""
        spreads = [disagreement(_stacked(columns, members)) for members in self.members.values() if len(members) > 1]
        return torch.stack(spreads).mean(0).tolist() if spreads else None

    def __call__(self, columns: Columns) -> list[float]:
        return WeightedSum(self.weights)(self.axes(columns))

    def _one(self, columns: Columns, members: Sequence[str]) -> list[float]:
        if len(members) == 1:
            return list(columns[members[0]])
        return ENSEMBLES[self.ensemble](_stacked(columns, members), self.deviations).tolist()


def _stacked(columns: Columns, members: Sequence[str]) -> torch.Tensor:
    """The members' scores, (K, B)."""
    return torch.tensor([list(columns[member]) for member in members], dtype=torch.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    given: dict[str, Sequence[float | None]]  # by axis, None where it abstained
    columns: dict[str, list[float]]  # by axis; where it abstained, the mean of ``filled``
    total: list[float]  # one number an answer, what is to be raised
    abstained: int  # scores that an axis did not give
    errors: int  # errors of reward functions
    # By metric, one number an answer: axis/NAME for each axis that has a name, reward/disagreement for ensembles.
    parts: dict[str, list[float]] = field(default_factory=dict)

    @property
    def scored(self) -> list[bool]:
        """False for an answer to which no axis gave a number."""
        return [any(x is not None for x in row) for row in zip(*self.given.values(), strict=True)]

    @property
    def metrics(self) -> dict[str, float]:
        counts = {"reward/abstained": float(self.abstained), "reward/errors": float(self.errors)}
        return counts | {name: _mean(column) for name, column in self.parts.items()}


@dataclass(frozen=True, slots=True)
class PendingScores:
    """Scores whose axes are at work."""

    columns: dict[str, Future[Sequence[float | None]]]
    aggregate: Aggregator
    prompts: Sequence[Dialogue]  # one an answer
    errors: int
    asked: Sequence[bool]  # one an answer; False where no axis was asked

    def result(self) -> Scores:
        given = {axis: self._spread(column.result()) for axis, column in self.columns.items()}
        columns = {axis: filled(column, self.prompts) for axis, column in given.items()}
        abstained = sum(column.count(None) for column in given.values())
        total = self.aggregate(columns)
        parts = parts_of(self.aggregate, columns)
        return Scores(given=given, columns=columns, total=total, abstained=abstained, errors=self.errors, parts=parts)

    def _spread(self, column: Sequence[float | None]) -> Sequence[float | None]:
        """The numbers of all answers, None for those that were not asked for."""
        numbers = iter(column)
        return [next(numbers) if asked else None for asked in self.asked]


def parts_of(aggregate: Aggregator, columns: Columns) -> dict[str, list[float]]:
    """The numbers beside the total that people look at, by metric, one number an answer."""
    if not isinstance(aggregate, NamedAxes):
        return {}
    named = {f"{AXIS}{name}": column for name, column in aggregate.axes(columns).items()}
    spread = aggregate.disagreement(columns)
    return named | ({} if spread is None else {DISAGREEMENT: spread})


def filled(column: Sequence[float | None], prompts: Sequence[Dialogue]) -> list[float]:
    """The column, with a mean where it has None: the mean of the other scores of the prompt.

    Such an answer is neither better nor worse than the prompt's other answers. Where all answers to a prompt have None,
    the mean is that of all scores in the column. Where the whole column is None, each score is 0.
    """
    by_prompt: dict[Dialogue, list[float]] = defaultdict(list)
    for prompt, score in zip(prompts, column, strict=True):
        if score is not None:
            by_prompt[prompt].append(score)
    whole = [score for score in column if score is not None] or [0.0]
    return [
        _mean(by_prompt.get(p, whole)) if score is None else score for p, score in zip(prompts, column, strict=True)
    ]


def totals_together(
    aggregate: Aggregator, scores: Sequence[Scores], prompts: Sequence[Dialogue]
) -> list[Sequence[float]]:
    """The totals of several policies' answers to the same prompts, one answer of each policy to each prompt.

    The policies were scored apart. An answer without a score gets the mean of the other policies' answers to its
    prompt, so that none of them wins there. Filled apart, it would have the mean of its own policy's other answers.
    """
    if not any(part.abstained for part in scores):
        return [part.total for part in scores]
    everybodys = [*prompts] * len(scores)
    columns = {axis: filled([x for part in scores for x in part.given[axis]], everybodys) for axis in scores[0].given}
    totals = aggregate(columns)
    return [totals[i : i + len(prompts)] for i in range(0, len(totals), len(prompts))]


def _mean(scores: Sequence[float]) -> float:
    return sum(scores) / len(scores)


@dataclass(frozen=True)
class Reward:
    axes: Mapping[str, Axis | Members]
    aggregate: Aggregator

    @classmethod
    def of(cls, name: str, axis: Axis) -> Reward:
        """A reward of one axis alone."""
        return cls({name: axis}, WeightedSum({name: 1.0}))

    @property
    def has_parts(self) -> bool:
        """Whether its scores have numbers beside the total: axes with names, or an ensemble."""
        return isinstance(self.aggregate, NamedAxes)

    def __call__(self, answers: Sequence[Answer]) -> Future[Scores]:
        before = self._errors()
        asked = [not a.failed for a in answers]
        kept = [a for a in answers if not a.failed]
        columns: dict[str, Future[Sequence[float | None]]] = {}
        for name, axis in self.axes.items():
            given = axis.columns(kept) if isinstance(axis, Members) else [axis(kept)]
            columns |= zip(columns_of(name, axis), given, strict=True)
        return PendingScores(columns, self.aggregate, [a.prompt for a in answers], self._errors() - before, asked)

    def _errors(self) -> int:
        """The errors so far of all axes that count errors, as functions do."""
        return sum(getattr(axis, "errors", 0) for axis in self.axes.values())
