"""What an evaluation is made of: every policy's answers to the same prompts, and what was measured of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from concordant.data.records import Message

Scorer = Literal["gold", "judge", "reward"]
SCORERS: tuple[Scorer, ...] = ("gold", "judge", "reward")  # the most to be trusted first


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyAnswers:
    """One policy's answers to the held-out prompts, one a prompt, in the order every policy shares."""

    name: str
    prompts: Sequence[tuple[Message, ...]]
    responses: Sequence[str]
    lengths: Sequence[int]  # tokens, the end token included
    ended: Sequence[bool]  # True where the policy sampled an end token
    rewards: Sequence[float] | None = None  # the proxy: what was trained on
    gold: Sequence[float] | None = None  # the true quality, where it is known
    judge: Sequence[float] | None = None  # a reward model no policy was trained on
    kl: float | None = None  # nats a response, from the reference
    kl_is_bound: bool = False  # True for best-of-n, whose KL is known as a bound only
    perplexity: float | None = None  # on held-out text; None for best-of-n, which is no distribution to ask

    def scores(self, scorer: Scorer) -> Sequence[float] | None:
        return {"gold": self.gold, "judge": self.judge, "reward": self.rewards}[scorer]


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % interval."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Gain:
    """How much better than the baseline on the same prompts, by one scorer."""

    mean: float  # in the scorer's own units
    deviations: float | None  # in standard deviations of the baseline's answers; None where those all score the same
    interval: Interval | None  # of the mean; None without a bootstrap


@dataclass(frozen=True, slots=True, kw_only=True)
class Survival:
    """How much of what the proxy says was gained another scorer confirms, on the same answers."""

    proxy: Gain
    other: Gain
    ratio: float | None  # other's gain over the proxy's, both in deviations; None where the proxy's is within noise
    interval: Interval | None  # of the ratio


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyScores:
    """One line of the table. None is "not known"."""

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
    decided_by: Scorer | None  # whose scores decide wins; None when nothing scored the answers
    survival: dict[str, dict[Scorer, Survival]]  # of every policy but the baseline, by gold and by judge where known
    lead: Gain | None  # of the best policy by ``decided_by`` over the second best
    seed: int
    bootstrap: int  # resamples behind the intervals

    @property
    def prompts(self) -> int:
        return len(self.answers[0].prompts)

    def mean(self, policy: str, scorer: Scorer) -> float | None:
        scores = self.policies[policy]
        return {"gold": scores.gold_mean, "judge": scores.judge_mean, "reward": scores.reward_mean}[scorer]

    def ranking(self) -> list[str]:
        """Policies, the best first, by the scorer that decides wins; empty when nothing does."""
        if self.decided_by is None:
            return []
        means = {name: self.mean(name, self.decided_by) for name in self.policies}
        return sorted(means, key=lambda name: -(means[name] or 0.0))
