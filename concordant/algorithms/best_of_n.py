"""Best-of-n: of n sampled answers, the one with the highest reward. No weight changes; the only cost is sampling.

Stiennon et al. 2020, 2009.01325 §3. Its KL from the policy is at most log n - (n-1)/n nats (Beirami et al. 2024,
2401.01879).
"""

from __future__ import annotations

from dataclasses import dataclass

from concordant.algorithms.rewards import Dialogue, Episode, Reward
from concordant.algorithms.rollouts import Rollouts
from concordant.runs.metrics import DISAGREEMENT


@dataclass(frozen=True, slots=True)
class Choice:
    """One prompt's n answers and their rewards."""

    prompt: Dialogue
    responses: list[str]
    rewards: list[float]
    lengths: list[int]  # tokens, end token included
    ended: list[bool]
    disagreement: list[float] | None = None  # of the members of an ensemble about each answer; None without one
    episodes: list[Episode] | None = None  # of each answer, if answers have several turns

    @property
    def best_number(self) -> int:
        """Number of the best answer; the first one if several have the highest reward."""
        return max(range(len(self.rewards)), key=self.rewards.__getitem__)

    @property
    def best(self) -> str:
        return self.responses[self.best_number]

    @property
    def episode(self) -> Episode | None:
        """What was said in the best answer, if it has several turns."""
        return None if self.episodes is None else self.episodes[self.best_number]

    @property
    def best_reward(self) -> float:
        return max(self.rewards)

    @property
    def worst(self) -> str:
        return self.responses[min(range(len(self.rewards)), key=self.rewards.__getitem__)]


def choose(rollouts: Rollouts, reward: Reward) -> list[Choice]:
    """One choice for each prompt, in the order of the rollouts."""
    scores = reward(rollouts.answers).result()
    rewards, spread = scores.total, scores.parts.get(DISAGREEMENT)
    lengths, ended = rollouts.length_B.tolist(), rollouts.ended_B.tolist()
    choices, at = [], 0
    for tree in rollouts.trees:
        span = slice(at, at + len(tree.branches))
        answers = rollouts.answers[span]
        responses = [a.response for a in answers]
        apart, episodes = None if spread is None else spread[span], [a.episode for a in answers if a.episode]
        choices.append(
            Choice(answers[0].prompt, responses, rewards[span], lengths[span], ended[span], apart, episodes or None)
        )
        at = span.stop
    return choices
