"""Proximal policy optimisation from a reward, with a penalty for leaving the reference.

Schulman et al. 2017, 1707.06347; for language models Ziegler et al. 2019, 1909.08593 and Ouyang et al. 2022,
2203.02155. One step: sample answers, score them, compute the advantage of every token, and take a few clipped gradient
steps. RLOO and GRPO are the same step with another advantage and no critic.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from concordant.algorithms import evidence
from concordant.algorithms.ppo_objectives import PolicyObjective, ValueObjective
from concordant.algorithms.probe import SampleProbe, plain
from concordant.algorithms.rewards import Reward
from concordant.algorithms.rollouts import Rollouts, Sampler
from concordant.algorithms.work import Piece, mean, run
from concordant.config.names import COMPARES_SAMPLES, estimator_of_kl, place_of_kl, whitening_of
from concordant.config.stages import PPOConfig
from concordant.core import kl
from concordant.core.advantages import ADVANTAGES, Returns, tied
from concordant.core.masked import whiten
from concordant.core.objective import Outputs
from concordant.core.running_stats import RunningStats
from concordant.core.seeding import derive, python_stream
from concordant.core.trees import Branch, PromptTree
from concordant.data.loader import batch_of, steps_of
from concordant.data.records import Prompt
from concordant.engines.protocol import Learner, Scorer
from concordant.training.exports import exports_of

TRAIN_ROWS = 4  # answers of a step that samples.jsonl gets, where it gets any


@dataclass(frozen=True, slots=True, kw_only=True)
class Players:
    """Who takes part in a run."""

    policy: Learner
    critic: Learner | None  # None: the advantage needs none
    reference: Scorer
    sampler: Sampler
    reward: Reward
    reward_range: tuple[float, float] | None = None  # mean and deviation of the scores of held-out answers
    probe: SampleProbe | None = None  # answers held-out prompts at every evaluation


@dataclass(frozen=True, slots=True, kw_only=True)
class Experience:
    """The answers of one step, with every number from which policy and critic learn."""

    rollouts: Rollouts
    old_logprob_N: Tensor  # nats, under the policy that sampled
    reference_N: Tensor  # nats, under the reference
    value_N: Tensor  # reward units, the critic's estimate before the token
    advantage_N: Tensor  # reward units, whitened where asked
    return_N: Tensor  # reward units, the critic's target
    score_B: Tensor  # raw reward
    shaped_B: Tensor  # normalised, clipped, less the missing-EOS penalty
    tied: float  # share of the answers whose prompt's answers all have the same score
    agreement: float | None  # correlation between the axes of a reward of several
    reward_counts: dict[str, float] = field(default_factory=dict)  # reward/abstained and reward/errors

    def part(self, trees: Sequence[int]) -> tuple[list[PromptTree], Tensor]:
        """The trees numbered ``trees``, and the numbers of their tokens."""
        spans = self.rollouts.token_slice()
        tokens = torch.cat([torch.arange(*spans[i]) for i in trees])
        return [self.rollouts.trees[i] for i in trees], tokens


class PPO:
    """An algorithm for ``training.loop``. Each of its steps samples new answers."""

    metric, greater_is_better = "eval/objective", True

    def __init__(
        self, config: PPOConfig, players: Players, prompts: Sequence[Prompt], card: Mapping[str, Any] | None = None
    ) -> None:
        self.config = resolved(config)
        self.actor, self.critic, self.reference = players.policy, players.critic, players.reference
        self.sampler, self.reward, self.prompts = players.sampler, players.reward, prompts
        self.reward_range, self.probe = players.reward_range, players.probe
        self.exports = exports_of(self.actor, config.train.export, card or {})
        self.roles = {"policy": self.actor} | ({"critic": self.critic} if self.critic else {})
        self.controller = make_controller(config)
        self.reward_stats = RunningStats()
        self.last: Experience | None = None  # of the last step
        train = config.train
        self.total_steps = steps_of(len(prompts), train.batch_size, train.epochs, train.max_steps)

    # -- one step -------------------------------------------------------------------------------

    def step(self, step: int, learning_rate: float) -> dict[str, float]:
        clock = _Clock()
        rollouts = self.sample(step)
        clock.lap("rollout")
        experience = self.last = self.make_experience(rollouts)
        clock.lap("experience")
        metrics = self.describe(experience)
        metrics |= summary(list(run(self.work(experience, step, learning_rate))))
        metrics["epoch"] = (step + 1) * self.config.train.batch_size / len(self.prompts)
        clock.lap("learn")
        # The controller sees the KL of this step's samples and sets the next step's weight.
        self.controller.update(metrics["objective/kl"], len(rollouts.answers))
        return metrics | clock.seconds

    def sample(self, step: int) -> Rollouts:
        numbers = batch_of(step, len(self.prompts), self.config.train.batch_size, self.config.seed)
        self.sampler.generator.load_weights(self.actor.publish())
        seed = derive(self.config.seed, "ppo/sample", step)
        return self.sampler([self.prompts[i] for i in numbers], self.config.sampling, seed)

    def make_experience(self, rollouts: Rollouts) -> Experience:
        """Scores, log-probs and values of the answers, and from them the advantage of every token."""
        config = self.config
        if rollouts.version != self.actor.version:
            raise RuntimeError(f"rollouts of version {rollouts.version}, the policy is at {self.actor.version}")
        # All calls are started before the code waits for the first result.
        trees, logprobs = rollouts.trees, Outputs(logprob=True)
        old, reference = self.actor.forward(trees, logprobs), self.reference.forward(trees, logprobs)
        value = self.critic.forward(trees, Outputs(value=True)) if self.critic else None
        scores = self.reward(rollouts.answers).result()
        old_N, reference_N = _present(old.result().logprob_N), _present(reference.result().logprob_N)
        value_N = _present(value.result().value_N) if value else torch.zeros_like(old_N)
        score_B = torch.tensor(scores.total, dtype=torch.float32)
        shaped_B = self.shape(score_B, rollouts)
        returns = Returns(
            score_B=shaped_B,
            penalty_N=self.penalty(old_N, reference_N),
            value_N=value_N,
            length_B=rollouts.length_B,
            group_B=rollouts.group_B,
            gamma=config.gamma,
            lam=config.lam,
        )
        advantage_N, return_N = ADVANTAGES[config.advantage](returns)
        return Experience(
            rollouts=rollouts,
            old_logprob_N=old_N,
            reference_N=reference_N,
            value_N=value_N,
            advantage_N=whiten(advantage_N) if config.whiten == "step" else advantage_N,
            return_N=return_N,
            score_B=score_B,
            shaped_B=shaped_B,
            tied=float(tied(returns).float().mean()),
            agreement=evidence.agreement(list(scores.columns.values())) if len(scores.columns) > 1 else None,
            reward_counts=scores.metrics,
        )

    def penalty(self, old_N: Tensor, reference_N: Tensor) -> Tensor:
        """-β · k1 of every token where the KL stands in the reward, else 0; reward units."""
        penalty_N = torch.zeros_like(old_N)
        if self.config.kl.place == "reward":
            penalty_N -= self.controller.kl_coef * kl.k1(old_N, reference_N)
        return penalty_N

    def shape(self, score_B: Tensor, rollouts: Rollouts) -> Tensor:
        """Turns raw scores into rewards: normalises, clips, and subtracts the penalty of answers that did not end."""
        config = self.config
        if config.reward_normalize == "running" or (config.reward_normalize == "start" and not self.reward_stats.count):
            self.reward_stats.update(score_B)
        shaped_B = score_B if config.reward_normalize == "none" else self.reward_stats.normalize(score_B)
        if config.reward_clip:
            shaped_B = shaped_B.clamp(-config.reward_clip, config.reward_clip)
        return shaped_B - config.missing_eos_penalty * (~rollouts.ended_B).float()

    def work(self, experience: Experience, step: int, learning_rate: float) -> Iterator[Sequence[Piece]]:
        """Several passes over the step's rollouts, each in minibatches of whole prompts."""
        config = self.config
        critic_rate = learning_rate * (config.critic_learning_rate or config.train.learning_rate)
        critic_rate /= config.train.learning_rate
        for epoch in range(config.inner_epochs):
            for numbers in self.minibatches(step, epoch):
                trees, tokens_N = experience.part(numbers)
                pieces = []
                if self.critic is not None:
                    value = self.value_objective(experience, tokens_N)
                    pieces.append(Piece(self.critic, trees, value, rate=critic_rate, prefix="value/"))
                if self.critic is None or step >= config.critic_warmup:
                    policy = self.policy_objective(experience, tokens_N)
                    pieces.append(Piece(self.actor, trees, policy, rate=learning_rate, stop=self.is_past_stop_kl))
                yield pieces

    def is_past_stop_kl(self, metrics: Mapping[str, float]) -> bool:
        return 0 < self.config.stop_kl < metrics["policy/approx_kl"]

    def minibatches(self, step: int, epoch: int) -> list[list[int]]:
        order = list(range(self.config.train.batch_size))
        python_stream(self.config.seed, "ppo/minibatch", step, epoch).shuffle(order)
        return [order[i :: self.config.minibatches] for i in range(self.config.minibatches)]

    def policy_objective(self, experience: Experience, tokens_N: Tensor) -> PolicyObjective:
        in_loss = self.config.kl.place == "loss"
        return PolicyObjective(
            experience.old_logprob_N[tokens_N],
            experience.advantage_N[tokens_N],
            experience.reference_N[tokens_N],
            self.config.clip,
            self.config.aggregation,
            self.config.entropy_coefficient,
            self.config.kl.estimator if in_loss else "",
            self.controller.kl_coef if in_loss else 0.0,
        )

    def value_objective(self, experience: Experience, tokens_N: Tensor) -> ValueObjective:
        return ValueObjective(
            experience.value_N[tokens_N],
            experience.return_N[tokens_N],
            self.config.value_clip,
            self.config.value_coefficient,
        )

    # -- metrics and samples --------------------------------------------------------------------

    def describe(self, e: Experience) -> dict[str, float]:
        """The step's samples in numbers; KL and entropy in nats a response."""
        rollouts = e.rollouts
        kl_B = rollouts.by_branch(kl.k1(e.old_logprob_N, e.reference_N))
        metrics = {
            "objective/kl": float(kl_B.mean()),
            "objective/score": float(e.score_B.mean()),
            "objective/score_std": float(e.score_B.std(correction=0)),
            "objective/rlhf_reward": float((e.shaped_B - self.controller.kl_coef * kl_B).mean()),
            "response/length": float(rollouts.length_B.float().mean()),
            "response/eos_fraction": float(rollouts.ended_B.float().mean()),
            "kl_coefficient": self.controller.kl_coef,
            "tokens": float(sum(t.tokens for t in rollouts.trees)),
            "samples": float(len(rollouts.answers)),
            "policy_version": float(rollouts.version),
            "doctor/objective/kl_error": float(kl_B.std(correction=0)) / len(kl_B) ** 0.5,  # standard error of its mean
            "doctor/reference/logprob": self.reference_check(),
        } | evidence.of_rollouts(rollouts, e.score_B, e.old_logprob_N)
        metrics |= e.reward_counts
        if e.agreement is not None:
            metrics["doctor/reward/agreement"] = e.agreement
        if self.reward_range is not None:
            mean, deviation = self.reward_range
            metrics["doctor/reward/z"] = (metrics["objective/score"] - mean) / deviation
            metrics["doctor/reward/spread"] = metrics["objective/score_std"] / deviation
        if self.probe is not None and self.probe.gold is not None:
            gold_B = torch.tensor([self.probe.gold(a.prompt, a.response) for a in rollouts.answers])
            metrics["objective/gold"] = float(gold_B.mean())
            metrics["doctor/reward/gold_correlation"] = evidence.correlation(e.score_B, gold_B)
        if self.critic is not None:
            metrics["value/explained_variance"] = evidence.explained_variance(e.value_N, e.return_N)
        if self.config.advantage in COMPARES_SAMPLES:
            metrics["objective/tied_groups"] = e.tied
        return metrics

    def reference_check(self) -> float:
        """Log-prob a token that the reference gives to fixed tokens, nats. It is the same at every step."""
        tree = PromptTree(torch.tensor([0]), (Branch.response([1, 2, 3]),))
        return float(_present(self.reference.forward([tree], Outputs(logprob=True)).result().logprob_N).mean())

    def evaluate(self, step: int) -> dict[str, float]:
        if self.probe is None:
            return {}
        metrics = self.probe(step)
        penalty = self.controller.kl_coef * metrics["kl"] * (self.reward_stats.std if self.reward_stats.count else 1)
        metrics["objective"] = metrics["reward"] - penalty  # raw reward units; PPO's aim on held-out prompts
        return {f"eval/{name}": value for name, value in metrics.items()}

    def samples(self, step: int) -> list[dict[str, Any]]:
        return self.probe.rows if self.probe else []

    def train_samples(self) -> list[dict[str, Any]]:
        """The first few answers of the step."""
        if self.last is None:
            return []
        e, rollouts = self.last, self.last.rollouts
        kl_B = rollouts.by_branch(kl.k1(e.old_logprob_N, e.reference_N))
        advantage_B = rollouts.by_branch(e.advantage_N) / rollouts.length_B
        return [
            {
                "split": "train",
                "prompt": plain(a.prompt),
                "response": a.response,
                "reward": float(e.score_B[i]),
                "kl": float(kl_B[i]),
                "advantage": float(advantage_B[i]),
                "length": int(rollouts.length_B[i]),
                "ended": a.ended,
                "policy_version": rollouts.version,
            }
            for i, a in enumerate(rollouts.answers[:TRAIN_ROWS])
        ]

    # -- state ----------------------------------------------------------------------------------

    def last_batch(self) -> dict[str, Any]:
        e = self.last
        if e is None:
            return {}
        numbers = {f.name: getattr(e, f.name) for f in fields(e) if f.name != "rollouts"}
        responses = [a.response for a in e.rollouts.answers]
        return {"trees": [asdict(tree) for tree in e.rollouts.trees], "responses": responses, **numbers}

    def numbers(self) -> dict[str, Any]:
        return {"kl_coef": self.controller.kl_coef, "reward_stats": self.reward_stats.state_dict()}

    def load_numbers(self, numbers: Mapping[str, Any]) -> None:
        self.controller.kl_coef = numbers["kl_coef"]
        self.reward_stats = RunningStats(**{f.name: numbers["reward_stats"][f.name] for f in fields(RunningStats)})


def resolved(config: PPOConfig) -> PPOConfig:
    """``config`` with the settings that follow the advantage in place of "auto"."""
    place = place_of_kl(config.advantage, config.kl.place)
    penalty = replace(config.kl, place=place, estimator=estimator_of_kl(place, config.kl.estimator))
    return replace(config, kl=penalty, whiten=whitening_of(config.advantage, config.whiten))


def make_controller(config: PPOConfig) -> kl.FixedKLController | kl.AdaptiveKLController:
    if config.kl.controller == "adaptive":
        return kl.AdaptiveKLController(config.kl.coefficient, config.kl.target, config.kl.horizon)
    return kl.FixedKLController(config.kl.coefficient)


class _Clock:
    """Seconds of each phase, named for metrics.jsonl."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = perf_counter()

    def lap(self, phase: str) -> None:
        now = perf_counter()
        self.seconds[f"seconds/{phase}"] = now - self._last
        self._last = now


def summary(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of each metric over the rounds.

    In the first round policy and sampler have the same weights, so a log-ratio other than 0 comes from rounding.
    """
    shifts = [row.pop("ratio/shift", None) for row in rounds]
    return mean(rounds) | ({} if shifts[0] is None else {"doctor/ratio/start": shifts[0]})


def _present(x_N: Tensor | None) -> Tensor:
    assert x_N is not None
    return x_N
