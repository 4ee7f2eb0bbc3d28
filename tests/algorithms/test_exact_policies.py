"""Every advantage and every policy loss in a world whose fixed point is known exactly: 8 tokens, 3 steps, 512 answers.

Where nothing divides the advantage, the policy must reach π* ∝ π_ref · exp(r / β). Where something does, or where the
KL is in the loss, it must reach the fixed point that follows from the formula (docs/algorithms.md, "Fixed points").
KL(π‖fixed point) < 0.01 nats.
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
from tests.algorithms.tabular import PROMPT, RESPONSES, TOKENS, TablePolicy, TableSampler, tree_of
from tests.algorithms.worlds import plain

REWARD = torch.randn(len(RESPONSES), generator=torch.Generator().manual_seed(1)) * 0.6
ALL = [tree_of(RESPONSES)]
TRAIN = TrainConfig(max_grad_norm=1.0, micro_batch_tokens=10**6, beta2=0.99)


def known_reward(answers):
    return [float(REWARD[int(a.response)]) for a in answers]


def trained(n, beta, steps=50, prompts=8, rate=0.06, **settings):
    """Log-probs of all answers after training, and of the start."""
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
    ppo.describe = lambda experience: {"objective/kl": 0.0}  # metrics take half of the time
    for step in range(steps):
        ppo.step(step, rate * min(1.0, 1.5 * (1 - step / steps)))
    return reference_logprobs(actor, ALL), start


def distance(logp, optimum):
    return float((logp.exp() * (logp - optimum)).sum())


def tilted(start, score, beta):
    """π_ref · exp(score / β), normalised, as log-probs."""
    return (start + score / beta).log_softmax(0)


def tilted_by_token(start, score, beta):
    """After every beginning, π_ref · exp(Q / β) with Q the mean score of what follows: the KL of a token is its own."""
    of_reference, q, tokens = start.view(TOKENS, TOKENS, TOKENS), score.view(TOKENS, TOKENS, TOKENS), []
    for level in (2, 1, 0):
        logp = (of_reference.log_softmax(level) + q / beta).log_softmax(level)
        of_reference, q = of_reference.logsumexp(level), (logp.exp() * q).sum(level)
        tokens.append(logp)
    last, middle, first = tokens
    return (first[:, None, None] + middle[:, :, None] + last).flatten()


def settled(start, beta, score_of):
    """The policy that is tilted by the score that itself gives, by repetition with half steps."""
    logp = start
    for _ in range(60):
        logp = (0.5 * logp + 0.5 * tilted_by_token(start, score_of(logp), beta)).log_softmax(0)
    assert torch.allclose(logp, tilted_by_token(start, score_of(logp), beta), atol=1e-3)
    return logp


def spread(logp):
    """The deviation of the reward under a policy."""
    p = logp.exp()
    return (p * (REWARD - (p * REWARD).sum()) ** 2).sum().sqrt()


def rank(logp):
    """GRPO of two answers: the better gets 1/√2 and the other -1/√2, however little it is better."""
    better = (REWARD[:, None] > REWARD[None, :]).float() - (REWARD[:, None] < REWARD[None, :]).float()
    return better @ logp.exp() / 2**0.5


def standard_score(logp, n, draws=1000):
    """The mean of (r - mean) / deviation over ``draws`` groups, whose other n-1 answers come from the policy."""
    uniform = torch.rand(draws, n - 1, generator=torch.Generator().manual_seed(5))
    others = REWARD[torch.searchsorted(logp.exp().cumsum(0), uniform).clamp(max=len(REWARD) - 1)]
    mean = (REWARD[:, None] + others.sum(1)) / n
    variance = (REWARD[:, None] ** 2 + others.square().sum(1) - n * mean**2) / (n - 1)
    return ((REWARD[:, None] - mean) / variance.sqrt()).mean(1)


LOSSES = {
    "clip-higher": {"clip": 0.2, "clip_high": 0.28},
    "dual-clip": {"policy_loss": "dual-clip", "clip_dual": 3.0},
    "gspo": {"policy_loss": "gspo", "clip": 0.05, "clip_high": 0.08},
    "cispo": {"policy_loss": "cispo", "clip_high": 4.0},
}


@pytest.mark.parametrize("name", LOSSES)
def test_every_policy_loss_reaches_the_optimum(name):
    end, start = trained(32, beta=1.0, advantage="rloo", aggregation="seq-mean-token-sum", **LOSSES[name])
    assert distance(start, tilted(start, REWARD, 1.0)) > 0.15
    assert distance(end, tilted(start, REWARD, 1.0)) < 0.01


@pytest.mark.parametrize(
    ("advantage", "settings"),
    [
        ("dr_grpo", {"n": 32, "aggregation": "seq-mean-token-sum-norm"}),
        # The greedy answer is good, so most samples are worse than it: more of them are needed for the same noise.
        ("remax", {"n": 64, "aggregation": "seq-mean-token-sum", "inner_epochs": 1, "steps": 100}),
        ("reinforce++", {"n": 32}),  # the whitening divides reward and penalty alike, so it moves no fixed point
    ],
)
def test_an_advantage_whose_penalty_is_in_the_reward_reaches_the_optimum(advantage, settings):
    end, start = trained(beta=1.0, advantage=advantage, **settings)
    assert distance(end, tilted(start, REWARD, 1.0)) < 0.01


@pytest.mark.parametrize(
    ("advantage", "n", "beta", "score_of"),
    [
        ("grpo", 2, 1.2, rank),
        ("grpo", 8, 1.5, lambda logp: standard_score(logp, 8)),
        ("reinforce++-baseline", 8, 2.0, lambda logp: (7 / 8) ** 0.5 * REWARD / spread(logp)),
    ],
)
def test_an_advantage_that_is_divided_reaches_the_fixed_point_of_its_formula(advantage, n, beta, score_of):
    end, start = trained(n, beta, prompts=256 // n, advantage=advantage, inner_epochs=1, steps=80)
    fixed = settled(start, beta, score_of)
    assert distance(start, fixed) > 0.05
    assert distance(end, fixed) < 0.01


def test_dr_grpo_with_the_kl_in_the_loss_has_a_greater_beta():
    """The KL is not multiplied by (n-1)/n as the advantage is, so the fixed point is that of β · n/(n-1)."""
    beta, n = 0.7, 2
    kl = KLConfig(coefficient=beta, place="loss", estimator="k3+")
    end, start = trained(n, beta, prompts=128, advantage="dr_grpo", kl=kl, inner_epochs=1, steps=80)
    assert distance(end, tilted_by_token(start, REWARD, beta * n / (n - 1))) < 0.01
    assert distance(end, tilted_by_token(start, REWARD, beta)) > 0.05
