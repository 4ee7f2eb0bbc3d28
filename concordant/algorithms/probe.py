"""Measures the policy during training: it answers held-out prompts, and the answers are scored and compared with the
reference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from concordant.algorithms.rewards import Answer, Reward
from concordant.algorithms.rollouts import Rollouts, Sampler
from concordant.config.sampling import SamplingConfig
from concordant.core import kl
from concordant.core.objective import Outputs
from concordant.core.seeding import derive
from concordant.core.trees import PromptTree
from concordant.data.records import Message, Prompt
from concordant.engines.protocol import Learner, Scorer
from concordant.evaluation.metrics import repetition
from concordant.runs.metrics import COST

Gold = Callable[[Sequence[Message], str], float]  # the true quality, if it is known; it evaluates and never trains


@dataclass
class SampleProbe:
    """Called with a step, returns the policy's numbers and keeps some answers for samples.jsonl."""

    learner: Learner
    reference: Scorer | None  # None: no KL is measured
    sampler: Sampler
    prompts: Sequence[Prompt]
    sampling: SamplingConfig
    seed: int
    reward: Reward | None = None
    cost: Reward | None = None  # of a constraint
    gold: Gold | None = None
    shown: int = 8  # answers kept for samples.jsonl
    rows: list[dict[str, Any]] = field(default_factory=list)
    trees: list[PromptTree] = field(default_factory=list)  # the answers of the last call

    def __call__(self, step: int) -> dict[str, float]:
        self.sampler.generator.load_weights(self.learner.publish())
        # The seed is the same at every step, so that only the policy differs between two evaluations.
        rollouts = self.sampler(self.prompts, replace(self.sampling, n=1), derive(self.seed, "probe"))
        self.trees = rollouts.trees
        columns: dict[str, list[float]] = {}
        if self.reference is not None:
            columns["kl"] = _kl_of(rollouts, self.learner, self.reference)
        if self.reward is not None:
            scores = self.reward(rollouts.answers).result()
            reward_B = torch.tensor(scores.total, dtype=torch.float32)  # as PPO's own scores
            columns |= {"reward": reward_B.tolist(), **scores.parts}
        if self.cost is not None:
            columns[COST] = self.cost(rollouts.answers).result().total
        if self.gold is not None:
            columns["gold"] = [self.gold(a.prompt, a.response) for a in rollouts.answers]
        self.rows = [
            {"step": step, "split": "eval", "prompt": plain(a.prompt), "response": a.response}
            | {name: column[i] for name, column in columns.items()}
            | turns_of(a)
            for i, a in enumerate(rollouts.answers[: self.shown])
        ]
        return {name: sum(column) / len(column) for name, column in columns.items()} | {
            "length": float(rollouts.length_B.float().mean()),
            "eos_fraction": float(rollouts.ended_B.float().mean()),
            "repetition": repetition([a.response for a in rollouts.answers]) or 0.0,
            "distinct": len({a.response for a in rollouts.answers}) / len(rollouts.answers),
        }


def plain(messages: Sequence[Message]) -> list[dict[str, str]]:
    """A dialogue in the form that samples.jsonl uses."""
    return [{"role": m.role, "content": m.content} for m in messages]


def turns_of(answer: Answer) -> dict[str, list[dict[str, str]]]:
    """The turns of an answer that has several, in the form that samples.jsonl uses; empty without an environment."""
    return {} if answer.episode is None else {"turns": plain(answer.episode.turns)}


def _kl_of(rollouts: Rollouts, learner: Scorer, reference: Scorer) -> list[float]:
    """The sampled KL of every response, in nats."""
    started = [scorer.forward(rollouts.trees, Outputs(logprob=True)) for scorer in (learner, reference)]
    policy, start = (numbers.result().logprob_N for numbers in started)
    assert policy is not None and start is not None
    return rollouts.by_branch(kl.k1(policy, start)).tolist()
