"""The records of an evaluation: the answers of every policy to the same prompts, and the measured numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from concordant.data.records import Message

Scorer = Literal["gold", "judge", "reward"]
SCORERS: tuple[Scorer, ...] = ("gold", "judge", "reward")  # the most reliable first


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyAnswers:
    """One policy's answers, one for each held-out prompt. The order of the prompts is the same for every policy."""

    name: str
    prompts: Sequence[tuple[Message, ...]]
    responses: Sequence[str]
    lengths: Sequence[int]  # tokens, the end token included
    ended: Sequence[bool]  # True where an end token or a stop string ended the answer
    rewards: Sequence[float] | None = None  # scores by the proxy, the reward that was trained on
    gold: Sequence[float] | None = None  # the true quality, if it is known
    judge: Sequence[float] | None = None  # scores by a reward model that no policy was trained on
    kl: float | None = None  # from the reference, nats a response
    kl_is_bound: bool = False  # True for best-of-n, for which only a bound of the KL is known
    perplexity: float | None = None  # on held-out text; None for best-of-n, which gives no probabilities

    def scores(self, scorer: Scorer) -> Sequence[float] | None:
        return {"gold": self.gold, "judge": self.judge, "reward": self.rewards}[scorer]


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % interval."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Gain:
    """The gain over the baseline on the same prompts, measured by one scorer."""

    mean: float  # in the scorer's own units
    deviations: float | None  # in standard deviations of the baseline's answers; None if these all have one score
    interval: Interval | None  # of the mean; None without a bootstrap


@dataclass(frozen=True, slots=True, kw_only=True)
class Survival:
    """How much of the gain by the proxy another scorer confirms on the same answers."""

    proxy: Gain
    other: Gain
    ratio: float | None  # the other gain over the proxy's gain, in deviations; None if the proxy's is within noise
    interval: Interval | None  # interval of the ratio


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyScores:
    """One line of the table. None means "not known"."""

    name: str
    prompts: int
    reward_mean: float | None
    reward_std: float | None  # over prompts, population form
    gold_mean: float | None
    judge_mean: float | None
    win_rate: float | None  # share of prompts won against the baseline, ties half
    win_interval: Interval | None
    gain: Gain | None  # by the scorer that decides wins
    kl: float | None
    kl_is_bound: bool
    perplexity: float | None
    distinct_1: float | None
    distinct_2: float | None
    repetition: float | None
    length_mean: float
    eos_fraction: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Everything the report says about the policies."""

    answers: tuple[PolicyAnswers, ...]
    policies: dict[str, PolicyScores]
    baseline: str
    decided_by: Scorer | None  # the scorer that decides wins; None if nothing scored the answers
    survival: dict[str, dict[Scorer, Survival]]  # of every policy but the baseline, by gold and by judge where known
    lead: Gain | None  # of the best policy by ``decided_by`` over the second best
    seed: int
    bootstrap: int  # resamples for the intervals

    @property
    def prompts(self) -> int:
        return len(self.answers[0].prompts)

    def mean(self, policy: str, scorer: Scorer) -> float | None:
        scores = self.policies[policy]
        return {"gold": scores.gold_mean, "judge": scores.judge_mean, "reward": scores.reward_mean}[scorer]

    def ranking(self) -> list[str]:
        """The policies, the best first, by the scorer that decides wins; empty if no scorer does."""
        if self.decided_by is None:
            return []
        means = {name: self.mean(name, self.decided_by) for name in self.policies}
        return sorted(means, key=lambda name: -(means[name] or 0.0))
