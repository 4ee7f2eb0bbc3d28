"""The strongest test: a policy small enough to enumerate, whose optimum is known exactly.

8 tokens, 3 steps, 512 responses, a given reward r and weight β: every method must reach
π* ∝ π_ref · exp(r / β), KL(π‖π*) < 0.01 nats.
"""

from dataclasses import replace

import pytest
import torch

from concordant.algorithms.dpo import DPOObjective, reference_logprobs
from concordant.algorithms.ppo import PPO, Players
from concordant.config.sampling import SamplingConfig
from concordant.config.stages import KLConfig, PPOConfig
from concordant.config.train import TrainConfig
from concordant.engines.local.learner import LocalLearner
from tests.algorithms.tabular import PROMPT, RESPONSES, TableCritic, TablePolicy, TableSampler, tree_of
from tests.algorithms.worlds import plain

BETA = 0.5
REWARD = torch.randn(len(RESPONSES), generator=torch.Generator().manual_seed(1)) * 0.6
ALL = [tree_of(RESPONSES)]
TRAIN = TrainConfig(max_grad_norm=1.0, micro_batch_tokens=10**6, beta2=0.99)


def distance(policy, reference_512):
    """KL(π‖π*), nats, by summing over all 512 responses."""
    logp = reference_logprobs(policy, ALL)
    optimum = (reference_512 + REWARD / BETA).log_softmax(0)
    return float((logp.exp() * (logp - optimum)).sum())


def decayed(rate, step, steps):
    return rate * min(1.0, 1.5 * (1 - step / steps))


def known_reward(answers):
    return [float(REWARD[int(a.response)]) for a in answers]


@pytest.mark.parametrize(("advantage", "aggregation"), [("gae", "token-mean"), ("rloo", "seq-mean-token-sum")])
def test_ppo_reaches_the_optimum(advantage, aggregation):
    steps, rate = 150, 0.06
    config = PPOConfig(
        advantage=advantage, aggregation=aggregation, reward_normalize="none", inner_epochs=2, minibatches=1,
        value_clip=0.0, kl=KLConfig(coefficient=BETA), sampling=SamplingConfig(n=32), critic_learning_rate=3 * rate,
        train=replace(TRAIN, batch_size=8, max_steps=steps, learning_rate=rate),
    )  # fmt: skip
    actor = LocalLearner(TablePolicy(), TRAIN)
    critic = LocalLearner(TableCritic(), TRAIN) if advantage == "gae" else None
    start = reference_logprobs(actor, ALL)
    assert distance(actor, start) > 0.5
    players = Players(
        policy=actor,
        critic=critic,
        reference=actor.reference(),
        sampler=TableSampler(actor.network),
        reward=plain(known_reward),
    )
    ppo = PPO(config, players, [PROMPT])
    for step in range(steps):
        ppo.step(step, decayed(rate, step, steps))
    assert distance(actor, start) < 0.01


def test_dpo_on_population_preferences_reaches_the_optimum():
    """Every pair enters both ways round, each with the share of people who would say so: 1 - ε = σ(r - r')."""
    policy = LocalLearner(TablePolicy(), TRAIN)
    start = reference_logprobs(policy, ALL)
    assert distance(policy, start) > 0.5
    stream = torch.Generator().manual_seed(0)
    steps, batch, rate = 120, 256, 0.15
    for step in range(steps):
        pair_P2 = torch.randint(len(RESPONSES), (batch, 2), generator=stream)
        trees = [tree_of(RESPONSES[pair]) for pair in pair_P2]
        share_other_way = torch.sigmoid(REWARD[pair_P2[:, 1]] - REWARD[pair_P2[:, 0]])
        policy.forward_backward(
            trees, DPOObjective(start[pair_P2.flatten()], "sigmoid", BETA, share_other_way)
        ).result()
        policy.step(decayed(rate, step, steps))
    assert distance(policy, start) < 0.01
