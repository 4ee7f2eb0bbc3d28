"""The strongest test: a policy small enough to enumerate, whose optimum is known exactly.

8 tokens, 3 steps, 512 responses, a given reward r and weight β: every method must reach
π* ∝ π_ref · exp(r / β), KL(π‖π*) < 0.01 nats.
"""

import itertools
from dataclasses import replace

import pytest
import torch

from concordant.algorithms.dpo import DPOObjective, branches_of, reference_logprobs
from concordant.algorithms.ppo import PPO
from concordant.algorithms.rewards import Answer
from concordant.algorithms.rollouts import Rollouts
from concordant.config.sampling import SamplingConfig
from concordant.config.stages import KLConfig, PPOConfig
from concordant.config.train import TrainConfig
from concordant.core.trees import Branch, PromptTree
from concordant.data.records import Message, Prompt
from concordant.engines.networks import CriticNetwork, PolicyNetwork
from concordant.engines.torch_generator import TorchGenerator
from concordant.engines.torch_learner import TorchLearner
from concordant.models.scalar_head import build_critic
from tests.engines.tiny import tiny_policy

TOKENS, STEPS, BETA = 8, 3, 0.5
RESPONSES = torch.tensor(list(itertools.product(range(TOKENS), repeat=STEPS)))
PROMPT = torch.tensor([0])
REWARD = torch.randn(len(RESPONSES), generator=torch.Generator().manual_seed(1)) * 0.6
TREE = PromptTree(PROMPT, tuple(Branch.response(ids) for ids in RESPONSES))
TRAIN = TrainConfig(max_grad_norm=1.0, micro_batch_tokens=10**6, beta2=0.99)


def learner():
    policy = tiny_policy(seed=3, vocab_size=TOKENS, hidden_size=64)
    return policy, TorchLearner(PolicyNetwork(policy), TRAIN)


def distance(trained, reference_512):
    """KL(π‖π*), nats."""
    logp = reference_logprobs(trained, [TREE])
    optimum = (reference_512 + REWARD / BETA).log_softmax(0)
    return float((logp.exp() * (logp - optimum)).sum())


def index_of(ids):
    return int((ids * torch.tensor([TOKENS**2, TOKENS, 1])).sum())


class Enumerated:
    """A sampler without text: the reward looks at ids alone."""

    def __init__(self, policy):
        self.generator = TorchGenerator(policy.model, end_ids=())

    def __call__(self, prompts, sampling, seed):
        groups = self.generator.generate([PROMPT] * len(prompts), sampling, seed)
        trees = [PromptTree(PROMPT, tuple(Branch.response(c.ids_T) for c in group)) for group in groups]
        flat = [c for group in groups for c in group]
        answers = [Answer(prompts[0].messages, str(index_of(c.ids_T)), True, {}) for c in flat]
        return Rollouts(
            trees, answers, torch.cat([c.logprob_T for c in flat]), torch.ones(len(flat), dtype=torch.bool),
            torch.full((len(flat),), STEPS), torch.arange(len(groups)).repeat_interleave(sampling.n), flat[0].version,
        )  # fmt: skip


def known_reward(answers):
    return [float(REWARD[int(a.response)]) for a in answers]


@pytest.mark.parametrize("advantage", ["gae", "rloo"])
def test_ppo_reaches_the_optimum(advantage):
    policy, actor = learner()
    steps = 160
    config = PPOConfig(
        seed=0, advantage=advantage, reward_normalize="none", inner_epochs=2, minibatches=1, clip=0.2, value_clip=0.0,
        lam=1.0, kl=KLConfig(coefficient=BETA), sampling=SamplingConfig(n=512, max_new_tokens=STEPS, slots=512),
        train=replace(TRAIN, batch_size=1, max_steps=steps, learning_rate=2e-3),
    )  # fmt: skip
    critic = TorchLearner(CriticNetwork(build_critic(policy)), TRAIN) if advantage == "gae" else None
    start = reference_logprobs(actor, [TREE])
    assert distance(actor, start) > 0.5
    prompts = [Prompt((Message("user", "?"),))]
    ppo = PPO(config, actor, critic, actor.reference(), Enumerated(policy), known_reward, prompts)
    for step in range(steps):
        ppo.step(step, 2e-3 * min(1.0, 2 * (steps - step) / steps))
    assert distance(actor, start) < 0.01


def test_dpo_on_population_preferences_reaches_the_optimum():
    """Every pair with its Bradley–Terry probability: each ordering enters with the weight people would give it."""
    _, policy = learner()
    start = reference_logprobs(policy, [TREE])
    assert distance(policy, start) > 0.5
    stream = torch.Generator().manual_seed(0)
    steps, batch = 250, 256
    for step in range(steps):
        first, second = torch.randint(len(RESPONSES), (2, batch), generator=stream)
        wins = torch.rand(batch, generator=stream) < torch.sigmoid(REWARD[first] - REWARD[second])
        chosen, rejected = torch.where(wins, first, second), torch.where(wins, second, first)
        trees = [
            PromptTree(PROMPT, (Branch.response(RESPONSES[c]), Branch.response(RESPONSES[r])))
            for c, r in zip(chosen, rejected, strict=True)
        ]
        reference_B = start[torch.stack([chosen, rejected], 1).flatten()]
        assert len(reference_B) == len(branches_of(range(batch)))
        policy.forward_backward(trees, DPOObjective(reference_B, "sigmoid", BETA))
        policy.step(2e-3 * min(1.0, 2 * (steps - step) / steps))
    assert distance(policy, start) < 0.01
