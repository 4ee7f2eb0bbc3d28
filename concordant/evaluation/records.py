"""The records of an evaluation: the answers of every policy to the same prompts, and the measured numbers.

R runs of one policy, G prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from concordant.data.records import Message

Scorer = Literal["gold", "judge", "reward"]
SCORERS: tuple[Scorer, ...] = ("gold", "judge", "reward")  # the most reliable first
LEVEL = 0.95  # of the intervals of single numbers


@dataclass(frozen=True, slots=True)
class TextLosses:
    """How well a policy predicts held-out texts: for each text the sum over its tokens."""

    nats: Sequence[float]  # -log of the probability of the text
    tokens: Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyAnswers:
    """One policy's answers, one for each held-out prompt. The order of the prompts is the same for every policy.

    A policy that was trained several times, with one seed each, has several records of one name.
    """

    name: str
    run: str = ""  # says which of several runs of the policy answered, e.g. by its folder
    prompts: Sequence[tuple[Message, ...]]
    responses: Sequence[str]
    lengths: Sequence[int]  # tokens, the end token included
    ended: Sequence[bool]  # True where an end token or a stop string ended the answer
    rewards: Sequence[float] | None = None  # scores by the proxy, the reward that was trained on
    gold: Sequence[float] | None = None  # the true quality, if it is known
    judge: Sequence[float] | None = None  # scores by a reward model that no policy was trained on
    kl: Sequence[float] | None = None  # from the reference, nats, one for each answer
    kl_bound: float | None = None  # nats a response; of best-of-n only a bound of the KL is known
    kl_unknown: str = ""  # why neither the KL nor a bound is known, as a clause
    # By name, one number for each answer: the axes of the proxy that have a name, and the disagreement of an ensemble.
    parts: Mapping[str, Sequence[float]] = field(default_factory=dict)
    texts: TextLosses | None = None  # None for best-of-n, which gives no probabilities

    def scores(self, scorer: Scorer) -> Sequence[float] | None:
        return {"gold": self.gold, "judge": self.judge, "reward": self.rewards}[scorer]


@dataclass(frozen=True, slots=True)
class Interval:
    """An interval, of 95 % where nothing else is said."""

    low: float
    high: float

    @property
    def holds_zero(self) -> bool:
        return self.low <= 0 <= self.high


@dataclass(frozen=True, slots=True, kw_only=True)
class Mean:
    """A mean over prompts, pairs or texts, and how well it is known."""

    value: float
    error: float | None  # standard error; None if it is not known, as for the mean of one value
    count: int  # values that it is the mean of
    interval: Interval | None  # None without a bootstrap
    is_share: bool = False  # a mean of values between 0 and 1 that count cases, such as a win rate

    def as_json(self) -> dict[str, float | None]:
        """The number for a file of JSON."""
        ends = (self.interval.low, self.interval.high) if self.interval else (None, None)
        return {"value": self.value, "low": ends[0], "high": ends[1], "count": self.count}

    def times(self, factor: float) -> Mean:
        """The mean of the same values times ``factor``."""
        interval = None
        if self.interval is not None:
            interval = Interval(*sorted((factor * self.interval.low, factor * self.interval.high)))
        error = None if self.error is None else abs(factor) * self.error
        return replace(self, value=factor * self.value, error=error, interval=interval)


@dataclass(frozen=True, slots=True)
class Gain:
    """The gain over the baseline on the same prompts, measured by one scorer."""

    mean: Mean  # in the scorer's own units
    deviations: Mean | None  # in standard deviations of the baseline's answers; None if these all have one score


@dataclass(frozen=True, slots=True, kw_only=True)
class Survival:
    """How much of the gain by the proxy another scorer confirms on the same answers."""

    proxy: Gain
    other: Gain
    ratio: Mean | None  # the other gain over the proxy's gain, in deviations; None if the proxy's is within noise


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The difference of two policies on the same prompts, by the scorer that decides wins."""

    first: str  # the policy with the higher mean
    second: str
    difference: Mean  # first less second; its interval is wider than 95 % if there are several comparisons
    is_shown: bool  # whether the prompts show that ``first`` is better than ``second``

    def seen_from(self, name: str) -> Mean:
        """The difference of ``name`` less the other policy."""
        return self.difference if name == self.first else self.difference.times(-1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Every comparison of two policies. All their intervals together hold with 95 %."""

    level: float  # of each single interval
    fewest: int  # with fewer prompts no difference can be shown
    comparisons: tuple[Comparison, ...]

    def between(self, one: str, other: str) -> Comparison:
        return next(c for c in self.comparisons if {c.first, c.second} == {one, other})


@dataclass(frozen=True, slots=True)
class Rating:
    """A Bradley–Terry rating, in the points of Elo's scale, see evaluation/ratings.py."""

    value: float
    interval: Interval | None  # None without a bootstrap


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratings:
    """The ratings of all policies, from every comparison of two of them, and the comparisons themselves."""

    anchor: str  # the policy whose rating is 0
    ratings: dict[str, Rating]
    wins: dict[str, dict[str, Mean]]  # wins[i][j]: share of the prompts that i won against j, ties half

    def ranking(self) -> list[str]:
        """The policies, the best first."""
        return sorted(self.ratings, key=lambda name: -self.ratings[name].value)


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyScores:
    """One line of the table. None means "not known". The numbers of several runs are means over the runs."""

    name: str
    prompts: int
    reward: Mean | None
    reward_std: float | None  # over answers, population form
    gold: Mean | None
    judge: Mean | None
    win: Mean | None  # share of prompts won against the baseline, ties half
    gain: Gain | None  # by the scorer that decides wins
    kl: Mean | None
    kl_bound: float | None
    perplexity: Mean | None  # over texts
    distinct_1: float | None
    distinct_2: float | None
    repetition: Mean | None  # over prompts whose answers are long enough
    length: Mean
    ends: Mean
    kl_unknown: str = ""  # why neither the KL nor a bound is known, as a clause
    run: str = ""
    runs: tuple[PolicyScores, ...] = ()  # each of several runs alone; empty for one run

    def by(self, scorer: Scorer) -> Mean | None:
        return {"gold": self.gold, "judge": self.judge, "reward": self.reward}[scorer]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Everything the report says about the policies."""

    answers: dict[str, tuple[PolicyAnswers, ...]]  # by policy, one for each of its runs
    policies: dict[str, PolicyScores]
    baseline: str
    decided_by: Scorer | None  # the scorer that decides wins; None if nothing scored the answers
    survival: dict[str, dict[Scorer, Survival]]  # of every policy but the baseline, by gold and by judge where known
    verdict: Verdict | None  # None for one policy, and if nothing scored the answers
    ratings: Ratings | None = None  # None for fewer than three policies, and if nothing scored the answers
    seed: int
    bootstrap: int  # resamples for the intervals

    @property
    def prompts(self) -> int:
        return len(self.first.prompts)

    @property
    def first(self) -> PolicyAnswers:
        """The answers of the first run of the first policy."""
        return next(iter(self.answers.values()))[0]

    def scores(self, policy: str, scorer: Scorer) -> NDArray[np.float64] | None:
        """The scores of all answers of a policy, (R, G); None if one of its runs was not scored."""
        return scores_of(self.answers[policy], scorer)

    def mean(self, policy: str, scorer: Scorer) -> Mean | None:
        return self.policies[policy].by(scorer)

    def ranking(self) -> list[str]:
        """The policies, the best first, by the scorer that decides wins; empty if no scorer does."""
        if self.decided_by is None:
            return []
        means = {name: self.mean(name, self.decided_by) for name in self.policies}
        return sorted(means, key=lambda name: -(0.0 if (mean := means[name]) is None else mean.value))


def scores_of(runs: Sequence[PolicyAnswers], scorer: Scorer) -> NDArray[np.float64] | None:
    """The scores of the answers of all runs, (R, G); None if a run was not scored."""
    scores = [run.scores(scorer) for run in runs]
    return None if any(s is None for s in scores) else np.asarray(scores, dtype=np.float64)
