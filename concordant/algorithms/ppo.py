"""Proximal policy optimisation (PPO): the policy learns from a reward, with a penalty for its KL from the reference.

PPO is from Schulman et al. 2017, 1707.06347. Ziegler et al. 2019, 1909.08593 and Ouyang et al. 2022, 2203.02155 use PPO
for language models. One step samples answers, scores them, computes the advantage of every token, and takes a few
clipped gradient steps. RLOO, GRPO and their relatives are the same step with another advantage
(``core/advantages.py``), and some with another loss (``core/policy_losses.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from concordant.algorithms import evidence
from concordant.algorithms.ahead import Ahead
from concordant.algorithms.constraint import Constraint
from concordant.algorithms.dynamic_sampling import DynamicSampling
from concordant.algorithms.experience import Experience
from concordant.algorithms.ppo_metrics import Clock, of_experience, of_rewards, rows_of, summary
from concordant.algorithms.ppo_objectives import PolicyObjective, ValueObjective
from concordant.algorithms.probe import Gold, SampleProbe
from concordant.algorithms.process_rewards import process_steps
from concordant.algorithms.replay import Learnt, Remembered, Replay
from concordant.algorithms.retention import Retention, beside
from concordant.algorithms.rewards import Reward, Scores
from concordant.algorithms.rollouts import Groups, Rollouts, Sampler, Started
from concordant.algorithms.shaping import Shaping
from concordant.algorithms.work import Piece, run
from concordant.config.names import NEEDS_GREEDY, estimator_of_kl, place_of_kl, whitening_of
from concordant.config.sampling import reshapes
from concordant.config.stages import PPOConfig
from concordant.core import kl
from concordant.core.advantages import ADVANTAGES, Returns, tied
from concordant.core.losses import SAMPLER_WEIGHT, sampler_weight
from concordant.core.masked import branch_of_token, whiten
from concordant.core.objective import Outputs, Scaled
from concordant.core.running_stats import RunningStats
from concordant.core.seeding import derive, python_stream
from concordant.data.loader import batch_of, steps_of
from concordant.data.records import Prompt
from concordant.engines.protocol import Learner, Scorer
from concordant.runs.metrics import COST, DISAGREEMENT
from concordant.training.exports import exports_of

TRAIN_ROWS = 4  # answers of a step that are written to samples.jsonl, if the loop logs answers at this step


@dataclass(frozen=True, slots=True, kw_only=True)
class Players:
    """The models and functions that take part in a run."""

    policy: Learner
    critic: Learner | None  # None if the advantage needs no critic
    reference: Scorer
    sampler: Sampler
    reward: Reward
    constraint: Constraint | None = None  # on the mean cost of the answers
    # Mean and standard deviation of the reward model's scores on held-out answers; None if they are not known.
    reward_range: tuple[float, float] | None = None
    probe: SampleProbe | None = None  # answers held-out prompts at every evaluation
    retention: Retention | None = None  # text that must not be forgotten


class PPO:
    """An algorithm for ``training.loop``. Each of its steps samples new answers."""

    metric, greater_is_better = "eval/objective", True

    def __init__(
        self, config: PPOConfig, players: Players, prompts: Sequence[Prompt], card: Mapping[str, Any] | None = None
    ) -> None:
        self.config = resolved(config)
        self.actor, self.critic, self.reference = players.policy, players.critic, players.reference
        self.sampler, self.reward, self.prompts = players.sampler, players.reward, prompts
        self.constraint, self.reward_range, self.probe = players.constraint, players.reward_range, players.probe
        self.retention = players.retention
        self.exports = exports_of(self.actor, config.train.export, card or {})
        self.roles = {"policy": self.actor} | ({"critic": self.critic} if self.critic else {})
        self.controller = make_controller(config)
        self.shape = Shaping(self.config)
        self.replay = Replay(config.replay, config.seed)
        self.dynamic_sampling = None
        if config.dynamic_sampling:
            self.dynamic_sampling = DynamicSampling(
                tries=config.dynamic_sampling,
                sampler=players.sampler,
                reward=players.reward,
                prompts=prompts,
                sampling=config.sampling,
                seed=config.seed,
            )
        self.first_disagreement: float | None = None  # of the ensemble, before the first step
        self.last: Experience | None = None  # the experience of the last step; None before the first one
        train = config.train
        self.total_steps = steps_of(len(prompts), train.batch_size, train.epochs, train.max_steps)
        self.ahead = Ahead(self.sample, self.sampled, config.cluster.max_lag, self.total_steps)

    # -- one step -------------------------------------------------------------------------------

    def step(self, step: int, learning_rate: float) -> dict[str, float]:
        """Sample answers, score them, learn from them, and return the metrics of this step."""
        if step == 0 and self.config.stop_disagreement and self.probe is not None:
            self.first_disagreement = self.probe(0)[DISAGREEMENT]
        clock = Clock()
        rollouts = self.rollouts(step)
        clock.lap("rollout")
        experience = self.last = self.make_experience(rollouts)
        clock.lap("experience")
        metrics = self.describe(experience)
        again = self.replay.draw(step, self.actor)
        work = beside(self.retention, self.work(experience, step, learning_rate, again), step)
        metrics |= summary(list(run(work)))
        metrics["epoch"] = (step + 1) * self.config.train.batch_size / len(self.prompts)
        self.replay.keep(rollouts.trees, experience, experience.sampled_logprob_N)
        clock.lap("learn")
        # From the KL of this step's answers, the controller computes the coefficient β of the next step.
        self.controller.update(metrics["objective/kl"], len(rollouts.answers))
        if self.constraint is not None:
            self.constraint.update(metrics[COST], step)
        return metrics | clock.seconds

    def rollouts(self, step: int) -> Rollouts:
        """The answers of a step. Where settings ask for it, others replace tied groups, and greedy answers come too."""
        rollouts = self.ahead.rollouts(step)
        if self.dynamic_sampling is not None:
            rollouts = self.dynamic_sampling(rollouts, self.prompt_numbers(step), step)
        if self.config.advantage in NEEDS_GREEDY:
            rollouts = self.sampler.with_greedy(rollouts, self.config.sampling, self.sampling_seed(step))
        return rollouts

    def sample(self, step: int) -> Started:
        """Start to sample answers to the prompts of ``step``, with the present weights of the policy."""
        self.sampler.generator.load_weights(self.actor.publish())
        return self.sampler.start(self.prompts_of(step), self.config.sampling, self.sampling_seed(step))

    def sampled(self, step: int, groups: Groups) -> Started:
        """What ``sample`` started for the prompts of ``step``, once the completions are there."""
        return self.sampler.restart(self.prompts_of(step), self.config.sampling, self.sampling_seed(step), groups)

    def prompt_numbers(self, step: int) -> list[int]:
        return batch_of(step, len(self.prompts), self.config.train.batch_size, self.config.seed)

    def prompts_of(self, step: int) -> list[Prompt]:
        return [self.prompts[i] for i in self.prompt_numbers(step)]

    def sampling_seed(self, step: int) -> int:
        return derive(self.config.seed, "ppo/sample", step)

    def make_experience(self, rollouts: Rollouts) -> Experience:
        """Compute scores, log-probs and values of the answers, and then the advantage of every token."""
        config, cap = self.config, self.config.importance_cap
        if (stale := self.actor.version - rollouts.version) and not config.cluster.max_lag:
            raise RuntimeError(f"the policy that sampled is {stale} optimizer steps old")
        # All calls are started before the code waits for the first result.
        trees, logprobs = rollouts.trees, Outputs(logprob=True)
        old, reference = self.actor.forward(trees, logprobs), self.reference.forward(trees, logprobs)
        value = self.critic.forward(trees, Outputs(value=True)) if self.critic else None
        cost = self.constraint.cost(rollouts.answers) if self.constraint else None
        scores = rollouts.scores or self.reward(rollouts.answers).result()
        greedy = self.reward(rollouts.greedy.answers).result() if rollouts.greedy else None
        old_N, reference_N = _present(old.result().logprob_N), _present(reference.result().logprob_N)
        value_N = _present(value.result().value_N) if value else torch.zeros_like(old_N)
        score_B, scored_B = torch.tensor(scores.total, dtype=torch.float32), torch.tensor(scores.scored)
        shaped_B = self.shape(score_B, rollouts, scored_B)
        cost_B = None
        if self.constraint is not None and cost is not None:
            cost_B = torch.tensor(cost.result().total, dtype=torch.float32)
            shaped_B = self.constraint.penalised(shaped_B, cost_B)
        learnt_B = scored_B & rollouts.ended_B if config.mask_truncated else scored_B
        returns = Returns(
            score_B=shaped_B,  # in Returns the score is the shaped reward, and not the raw reward
            scored_B=None if scored_B.all() else scored_B,
            steps=process_steps(scores, self.reward.aggregate, trees, self.text_of, self.shape.scale),
            greedy_B=self.greedy_reward(greedy, rollouts),
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
            advantage_N=self.whitened(advantage_N, learnt_B[branch_of_token(rollouts.length_B)]),
            return_N=return_N,
            score_B=score_B,
            shaped_B=shaped_B,
            cost_B=cost_B,
            tied=float(tied(returns).float().mean()),
            agreement=evidence.agreement(list(scores.columns.values())) if len(scores.columns) > 1 else None,
            reward_counts=scores.metrics | (_counts_of_both(scores, greedy) if greedy else {}),
            greedy=sum(greedy.total) / len(greedy.total) if greedy else None,
            learnt_B=None if learnt_B.all() else learnt_B,
            weight_N=sampler_weight(old_N, rollouts.sampler_logprob_N, cap) if cap else None,
        )

    def whitened(self, advantage_N: Tensor, is_learnt_N: Tensor) -> Tensor:
        """The advantages; with ``whiten step`` those of all tokens that are learnt from get mean 0 and deviation 1."""
        if self.config.whiten != "step":
            return advantage_N
        white_N = torch.zeros_like(advantage_N)
        white_N[is_learnt_N] = whiten(advantage_N[is_learnt_N])
        return white_N

    def greedy_reward(self, greedy: Scores | None, rollouts: Rollouts) -> Tensor | None:
        """The shaped reward of the most likely answer to the prompt of each answer, (B,); None if it was not asked."""
        if greedy is None or rollouts.greedy is None:
            return None
        score_G = torch.tensor(greedy.total, dtype=torch.float32)
        return self.shape(score_G, rollouts.greedy, measure=False)[rollouts.group_B]

    def text_of(self, ids_T: Tensor) -> str:
        return self.sampler.text(ids_T, self.config.sampling)

    def penalty(self, old_N: Tensor, reference_N: Tensor) -> Tensor:
        """The part of each token's reward that comes from the KL: -β · k1 if ``kl.place`` is "reward", otherwise 0."""
        penalty_N = torch.zeros_like(old_N)
        if self.config.kl.place == "reward":
            penalty_N -= self.controller.kl_coef * kl.k1(old_N, reference_N)
        return penalty_N

    def work(
        self, experience: Experience, step: int, learning_rate: float, again: Remembered | None = None
    ) -> Iterator[Sequence[Piece]]:
        """One round for each minibatch of each inner epoch: a piece for the critic and a piece for the policy.

        Without a critic there is only the policy's piece. In the first ``critic_warmup`` steps there is only the
        critic's piece. Where there are answers to learn from ``again``, the policy has a piece of them too.
        """
        config = self.config
        # The critic's rate has the schedule of the policy's rate: the ratio of the two rates is the same at every step.
        critic_rate = learning_rate * (config.critic_learning_rate or config.train.learning_rate)
        critic_rate /= config.train.learning_rate
        for epoch in range(config.inner_epochs):
            for numbers in self.minibatches(step, epoch):
                trees, tokens_N = experience.part(numbers)
                if not trees:
                    continue  # nothing is learnt from any answer of this minibatch
                pieces = []
                if self.critic is not None:
                    critic_objective = self.value_objective(experience, tokens_N)
                    pieces.append(Piece(self.critic, trees, critic_objective, rate=critic_rate, prefix="value/"))
                if self.critic is None or step >= config.critic_warmup:
                    policy_objective = self.policy_objective(experience, tokens_N)
                    pieces.append(
                        Piece(self.actor, trees, policy_objective, rate=learning_rate, stop=self.is_past_stop_kl)
                    )
                    pieces += [] if again is None else self.replayed(again, numbers, learning_rate)
                yield pieces

    def replayed(self, again: Remembered, numbers: Sequence[int], learning_rate: float) -> list[Piece]:
        """A piece of earlier answers, whose terms and metrics have names of their own."""
        trees, tokens_N = again.part(numbers)
        objective = Scaled(self.policy_objective(again, tokens_N), 1.0, "replay/")
        return [Piece(self.actor, trees, objective, rate=learning_rate)] if trees else []

    def is_past_stop_kl(self, metrics: Mapping[str, float]) -> bool:
        """Whether the KL from the policy that sampled is above ``stop_kl``; 0 switches the limit off."""
        return 0 < self.config.stop_kl < metrics["policy/approx_kl"]

    def minibatches(self, step: int, epoch: int) -> list[list[int]]:
        """The numbers of the trees in each minibatch. The order depends on the seed, the step and the inner epoch."""
        order = list(range(self.config.train.batch_size))
        python_stream(self.config.seed, "ppo/minibatch", step, epoch).shuffle(order)
        return [order[i :: self.config.minibatches] for i in range(self.config.minibatches)]

    def policy_objective(self, experience: Learnt, tokens_N: Tensor) -> PolicyObjective:
        in_loss = self.config.kl.place == "loss"
        return PolicyObjective(
            old_logprob_N=experience.old_logprob_N[tokens_N],
            advantage_N=experience.advantage_N[tokens_N],
            reference_N=experience.reference_N[tokens_N],
            loss=self.config.policy_loss,
            clip=self.config.clip,
            clip_high=self.config.clip_high,
            clip_dual=self.config.clip_dual,
            limit=self.config.sampling.max_new_tokens,
            aggregation=self.config.aggregation,
            entropy_coefficient=self.config.entropy_coefficient,
            kl_estimator=self.config.kl.estimator if in_loss else "",
            kl_coefficient=self.controller.kl_coef if in_loss else 0.0,
            weight_N=None if experience.weight_N is None else experience.weight_N[tokens_N],
        )

    def value_objective(self, experience: Experience, tokens_N: Tensor) -> ValueObjective:
        return ValueObjective(
            old_value_N=experience.value_N[tokens_N],
            return_N=experience.return_N[tokens_N],
            clip=self.config.value_clip,
            coefficient=self.config.value_coefficient,
        )

    # -- metrics and samples --------------------------------------------------------------------

    def describe(self, e: Experience) -> dict[str, float]:
        """Metrics of the step's answers."""
        metrics = of_experience(e, self.config, self.controller.kl_coef) | of_rewards(e, self.reward_range, self.gold)
        if self.constraint is not None and e.cost_B is not None:
            metrics |= {COST: float(e.cost_B.mean()), "constraint/multiplier": self.constraint.multiplier}
        if self.ahead.lag:
            metrics["sampling/lag"] = float(self.actor.version - e.rollouts.version)
        return metrics | {"doctor/reference/logprob": evidence.of_reference(self.reference)}

    @property
    def gold(self) -> Gold | None:
        """The true quality, if it is known."""
        return self.probe.gold if self.probe else None

    def evaluate(self, step: int) -> dict[str, float]:
        """Metrics of the answers to held-out prompts; ``eval/objective`` chooses the best weights."""
        if self.probe is None:
            return {}
        metrics = self.probe(step)
        # β · KL is in normalised reward units. The product with the rewards' standard deviation is in raw reward units.
        deviation = self.shape.stats.std if self.shape.stats.count else 1.0
        penalty = self.controller.kl_coef * metrics["kl"] * deviation
        metrics["objective"] = metrics["reward"] - penalty  # raw reward units; PPO's aim on held-out prompts
        if self.constraint is not None:
            metrics["objective"] -= self.constraint.excess(metrics[COST]) * deviation
        if self.first_disagreement is not None:
            limit = self.config.stop_disagreement * self.first_disagreement
            metrics["past_limit"] = float(metrics[DISAGREEMENT] > limit)
        metrics |= self.retention.evaluate() if self.retention else {}
        return {f"eval/{name}": value for name, value in metrics.items()}

    def samples(self, step: int) -> list[dict[str, Any]]:
        return self.probe.rows if self.probe else []

    def train_samples(self) -> list[dict[str, Any]]:
        """Rows for samples.jsonl: the first ``TRAIN_ROWS`` answers of the last step."""
        if self.last is None:
            return []
        tokens = self.last.token_rows(TRAIN_ROWS, self.sampler.encoder.tokenizer, with_value=self.critic is not None)
        return [row | {"tokens": of_row} for row, of_row in zip(rows_of(self.last, TRAIN_ROWS), tokens, strict=True)]

    # -- state ----------------------------------------------------------------------------------

    def last_batch(self) -> dict[str, Any]:
        e = self.last
        if e is None:
            return {}
        numbers = {f.name: getattr(e, f.name) for f in fields(e) if f.name != "rollouts"}
        responses = [a.response for a in e.rollouts.answers]
        return {"trees": [asdict(tree) for tree in e.rollouts.trees], "responses": responses, **numbers}

    def numbers(self) -> dict[str, Any]:
        """The state that no role stores: the KL coefficient, the rewards' statistics, what guards them, and replay."""
        numbers: dict[str, Any] = {"kl_coef": self.controller.kl_coef, "reward_stats": self.shape.stats.state_dict()}
        if self.constraint is not None:
            numbers["multiplier"] = self.constraint.multiplier
        if self.first_disagreement is not None:
            numbers["first_disagreement"] = self.first_disagreement
        if self.ahead.lag:
            numbers["ahead"] = self.ahead.state()
        return numbers | ({"replay": self.replay.state()} if self.replay.steps else {})

    def load_numbers(self, numbers: Mapping[str, Any]) -> None:
        self.controller.kl_coef = numbers["kl_coef"]
        self.replay.load(numbers.get("replay", ()))
        self.ahead.load(numbers.get("ahead", {}))
        if self.constraint is not None:
            self.constraint.multiplier = numbers.get("multiplier", self.constraint.multiplier)
        self.first_disagreement = numbers.get("first_disagreement")
        self.shape.stats = RunningStats(**{f.name: numbers["reward_stats"][f.name] for f in fields(RunningStats)})


def resolved(config: PPOConfig) -> PPOConfig:
    """``config`` with values in place of "auto" and of a cap that is not given, which follow from other settings."""
    place = place_of_kl(config.advantage, config.kl.place)
    kl_config = replace(config.kl, place=place, estimator=estimator_of_kl(place, config.kl.estimator))
    unlike = reshapes(config.sampling) or config.cluster.max_lag > 0  # the sampler's distribution and the learner's
    cap = config.importance_cap or (SAMPLER_WEIGHT if unlike else 0.0)
    return replace(config, kl=kl_config, whiten=whitening_of(config.advantage, config.whiten), importance_cap=cap)


def _counts_of_both(scores: Scores, greedy: Scores) -> dict[str, float]:
    """Missing scores and errors of the reward, for the samples and for the most likely answers."""
    return {name: scores.metrics[name] + greedy.metrics[name] for name in ("reward/abstained", "reward/errors")}


def make_controller(config: PPOConfig) -> kl.FixedKLController | kl.AdaptiveKLController:
    if config.kl.controller == "adaptive":
        return kl.AdaptiveKLController(config.kl.coefficient, config.kl.target, config.kl.horizon)
    return kl.FixedKLController(config.kl.coefficient)


def _present(x_N: Tensor | None) -> Tensor:
    """``x_N``, which is not None because the forward pass was asked to compute it."""
    assert x_N is not None
    return x_N
