"""Every advantage and every policy loss in a world whose fixed point is known exactly: 8 tokens, 3 steps, 512 answers.

Where nothing divides the advantage, the policy must reach π* ∝ π_ref · exp(r / β). Where something does, it must reach
the fixed point that follows from the formula (docs/algorithms.md, "Fixed points"). KL(π‖fixed point) < 0.01 nats.
"""

from dataclasses import replace

import pytest
import torch

from concordant.algorithms.dpo import reference_logprobs
from concordant.algorithms.ppo import PPO, Players
from concordant.config.sampling import SamplingConfig
from concordant.config.stages import KLConfig, PPOConfig
from concordant.config.train import TrainConfig
from concordant.engines.local.learner import LocalLearner
from tests.algorithms.tabular import PROMPT, RESPONSES, TablePolicy, TableSampler, tree_of
from tests.algorithms.worlds import plain

REWARD = torch.randn(len(RESPONSES), generator=torch.Generator().manual_seed(1)) * 0.6
ALL = [tree_of(RESPONSES)]
TRAIN = TrainConfig(max_grad_norm=1.0, micro_batch_tokens=10**6, beta2=0.99)


def known_reward(answers):
    return [float(REWARD[int(a.response)]) for a in answers]


def trained(n, beta, steps=150, rate=0.06, prompts=8, **settings):
    """(log-probs of all answers after training, and of the start)."""
    config = PPOConfig(
        reward_normalize="none", minibatches=1, sampling=SamplingConfig(n=n, max_new_tokens=3),
        train=replace(TRAIN, batch_size=prompts, max_steps=steps, learning_rate=rate),
        **({"inner_epochs": 2, "kl": KLConfig(coefficient=beta)} | settings),
    )  # fmt: skip
    actor = LocalLearner(TablePolicy(), TRAIN)
    start = reference_logprobs(actor, ALL)
    players = Players(
        policy=actor,
        critic=None,
        reference=actor.reference(),
        sampler=TableSampler(actor.network),
        reward=plain(known_reward),
    )
    ppo = PPO(config, players, [PROMPT])
    for step in range(steps):
        ppo.step(step, rate * min(1.0, 1.5 * (1 - step / steps)))
    return reference_logprobs(actor, ALL), start


def distance(logp, optimum):
    return float((logp.exp() * (logp - optimum)).sum())


def tilted(start, score, beta):
    """π_ref · exp(score / β), normalised, as log-probs."""
    return (start + score / beta).log_softmax(0)


def spread(logp):
    """The deviation of the reward under a policy."""
    p = logp.exp()
    return (p * (REWARD - (p * REWARD).sum()) ** 2).sum().sqrt()


def settled(start, beta, score_of):
    """The policy that is tilted by the score that itself gives: the fixed point, by repeating with half steps."""
    logp = start
    for _ in range(500):
        mixed = 0.5 * logp + 0.5 * tilted(start, score_of(logp), beta)
        logp = mixed.log_softmax(0)
    assert torch.allclose(logp, tilted(start, score_of(logp), beta), atol=1e-4)
    return logp


LOSSES = {
    "clip-higher": {"clip": 0.2, "clip_high": 0.28},
    "dual-clip": {"policy_loss": "dual-clip", "clip_dual": 3.0},
    "gspo": {"policy_loss": "gspo", "clip": 0.05, "clip_high": 0.08},
    "cispo": {"policy_loss": "cispo", "clip_high": 4.0},
}


@pytest.mark.parametrize("name", LOSSES)
def test_every_policy_loss_reaches_the_optimum(name):
    beta = 0.5
    end, start = trained(32, beta, advantage="rloo", aggregation="seq-mean-token-sum", **LOSSES[name])
    assert distance(start, tilted(start, REWARD, beta)) > 0.5
    assert distance(end, tilted(start, REWARD, beta)) < 0.01


@pytest.mark.parametrize(
    ("advantage", "n", "settings"),
    [
        ("dr_grpo", 4, {"aggregation": "seq-mean-token-sum-norm"}),
        ("remax", 4, {"aggregation": "seq-mean-token-sum"}),
        ("reinforce++", 4, {}),  # the whitening divides reward and penalty alike, so it moves no fixed point
    ],
)
def test_an_advantage_whose_penalty_is_in_the_reward_reaches_the_optimum(advantage, n, settings):
    beta = 0.5
    end, start = trained(n, beta, prompts=64, advantage=advantage, **settings)
    assert distance(end, tilted(start, REWARD, beta)) < 0.01


@pytest.mark.parametrize("n", [2, 32])
def test_grpo_reaches_the_fixed_point_of_its_formula(n):
    """Of two answers the better gets 1/√2 and the other -1/√2, whatever their rewards; of many, (r - mean) / deviation.

    So the score of an answer is its rank among the policy's answers for n = 2, and r / σ(π) for large n.
    """
    beta = 0.8

    def score_of(logp):
        if n > 2:
            return REWARD / spread(logp)
        better = (REWARD[:, None] > REWARD[None, :]).float() - (REWARD[:, None] < REWARD[None, :]).float()
        return better @ logp.exp() / 2**0.5

    end, start = trained(n, beta, prompts=256 // n, advantage="grpo", kl=KLConfig(coefficient=beta), inner_epochs=1)
    fixed = settled(start, beta, score_of)
    assert distance(end, fixed) < 0.01
    assert distance(fixed, tilted(start, REWARD, beta)) > 0.05, "it is not the optimum of the reward"


def test_reinforce_plus_plus_baseline_reaches_the_fixed_point_of_its_formula():
    """E[r - group mean | y] = (n-1)/n (r - μ), and its deviation is √((n-1)/n) σ: the score is √((n-1)/n) r / σ(π)."""
    beta, n = 0.8, 4
    end, start = trained(n, beta, prompts=64, advantage="reinforce++-baseline", inner_epochs=1)
    fixed = settled(start, beta, lambda logp: ((n - 1) / n) ** 0.5 * REWARD / spread(logp))
    assert distance(end, fixed) < 0.01


def test_dr_grpo_with_the_kl_in_the_loss_has_a_greater_beta():
    """The loss is not divided by (n-1)/n as the advantage is, so the optimum is that of β · n/(n-1)."""
    beta, n = 0.5, 2
    kl = KLConfig(coefficient=beta, place="loss", estimator="k3+")
    end, start = trained(n, beta, prompts=128, advantage="dr_grpo", kl=kl, inner_epochs=1)
    assert distance(end, tilted(start, REWARD, beta * n / (n - 1))) < 0.01
    assert distance(end, tilted(start, REWARD, beta)) > 0.05
