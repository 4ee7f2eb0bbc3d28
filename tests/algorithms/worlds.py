"""Small worlds for the algorithms: a tiny policy, a few prompts, answers written by hand."""

from __future__ import annotations

import torch

from concordant.algorithms.ppo import PPO, Players
from concordant.algorithms.rewards import Answer, Reward
from concordant.algorithms.rollouts import Rollouts, Sampler
from concordant.config.names import NEEDS_CRITIC
from concordant.config.sampling import SamplingConfig
from concordant.config.stages import PPOConfig
from concordant.config.train import TrainConfig
from concordant.core.objective import BranchOutputs
from concordant.core.trees import Branch, PromptTree, lay_out
from concordant.data.chat import ChatEncoder
from concordant.data.records import Message, Prompt
from concordant.engines.local.generator import LocalGenerator
from concordant.engines.local.learner import LocalLearner
from concordant.engines.local.networks import CriticNetwork, PolicyNetwork
from concordant.engines.protocol import Done
from concordant.models.scalar_head import build_critic
from tests.engines.tiny import tiny_policy

PROMPTS = [Prompt((Message("user", text),)) for text in ("the owl", "the fox", "where does the owl live", "a tree")]


def tree(*branches, prompt=(5, 6, 7)):
    return PromptTree(torch.tensor(prompt), tuple(Branch.response(ids) for ids in branches))


def given(trees, logprobs=None, scores=None):
    """A batch of ``trees``, and what a forward pass is to have said of them, in the order they are written."""
    batch = lay_out(trees)
    numbers = None if logprobs is None else torch.tensor(logprobs)[batch.token_N].requires_grad_()
    score_B = None if scores is None else torch.tensor(scores)[batch.caller_B].requires_grad_()
    return BranchOutputs(logprob_N=numbers, score_B=score_B), batch


def loss_of(objective, out, batch):
    """Each term's mean over the batch."""
    weights = objective.weights(batch)
    return {name: float(term.sum.detach()) / weights[name] for name, term in objective(out, batch).terms.items()}


def means(evaluated):
    return {name: float(m.sum) / float(m.weight) for name, m in evaluated.metrics.items()}


def weights_of(learner):
    return {name: value.clone() for name, value in learner.network.state_dict().items()}


def moved(learner, before):
    return [name for name, value in learner.network.state_dict().items() if not torch.equal(value, before[name])]


def letters(answers):
    """A reward: how often the response says "o"."""
    return [float(a.response.count("o")) for a in answers]


def plain(score):
    """A reward of one axis, a plain function from answers to numbers."""
    return Reward.of("plain", lambda answers: Done(score(answers)))


def make_ppo(reward=letters, seed=1, lora_rank=0, prompts=PROMPTS, sampling=None, train=None, **settings):
    """PPO on four prompts with two answers of six tokens each."""
    policy = tiny_policy(seed, lora_rank)
    usual = {"batch_size": 4, "max_steps": 9, "learning_rate": 1e-4, "micro_batch_tokens": 10**6}
    config = PPOConfig(
        reward=["-"],
        train=TrainConfig(**{**usual, **(train or {})}),
        sampling=SamplingConfig(**{"n": 2, "max_new_tokens": 6, **(sampling or {})}),
        **settings,
    )
    encoder = ChatEncoder(policy.tokenizer)
    actor = LocalLearner(PolicyNetwork(policy), config.train, temperature=config.sampling.temperature)
    critic = None
    if config.advantage in NEEDS_CRITIC:
        critic = LocalLearner(CriticNetwork(build_critic(policy, config.critic_head)), config.train)
    sampler = Sampler(LocalGenerator(policy.model, encoder.end_ids, tokenizer=policy.tokenizer), encoder)
    players = Players(
        policy=actor,
        critic=critic,
        reference=actor.reference(),
        sampler=sampler,
        reward=reward if isinstance(reward, Reward) else plain(reward),
    )
    return PPO(config, players, prompts)


def written(*groups, version=0):
    """Rollouts of answers written by hand: each group a prompt's (ids, ended) pairs."""
    flat = [answer for group in groups for answer in group]
    lengths = torch.tensor([len(ids) for ids, _ in flat])
    return Rollouts(
        [tree(*[ids for ids, _ in group], prompt=(5 + g, 6, 7)) for g, group in enumerate(groups)],
        [
            Answer(PROMPTS[g].messages, f"{g} {ids}", ended, {})
            for g, group in enumerate(groups)
            for ids, ended in group
        ],
        torch.zeros(int(lengths.sum())),
        torch.tensor([ended for _, ended in flat]),
        lengths,
        torch.tensor([g for g, group in enumerate(groups) for _ in group]),
        version,
    )
