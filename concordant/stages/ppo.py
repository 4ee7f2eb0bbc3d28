"""``concordant ppo``: learn from a reward by trying."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from concordant.algorithms.ppo import PPO
from concordant.config.checks import checked
from concordant.config.names import NEEDS_CRITIC
from concordant.config.stages import PPOConfig
from concordant.data.chat import ChatEncoder
from concordant.data.records import Prompt
from concordant.doctor.preflight import Subject
from concordant.engines.networks import CriticNetwork
from concordant.engines.precision import precision_of
from concordant.engines.torch_learner import TorchLearner
from concordant.models.load import Policy
from concordant.models.reward_model import RewardModel
from concordant.models.scalar_head import Started, build_critic
from concordant.stages import common
from concordant.stages.rewarding import Rewards


@checked
def ppo(config: PPOConfig) -> Path:
    """Train a policy with PPO, RLOO or GRPO; returns the run folder."""
    with common.opened(config, "ppo") as folder:
        loaded = common.read(config, folder, Prompt, "prompts")
        policy = common.open_policy(config.model, loaded.train, config.seed)
        encoder = ChatEncoder(
            policy.tokenizer, replace(common.limits_of(config.data, policy), too_long="cut_prompt_start")
        )
        rewards = Rewards(config.reward, config.model)
        actor = common.learner_of(policy, config.model, config.train, config.sampling.temperature)
        reference = common.reference_of(actor, config.reference, config)
        sampler = common.sampler_of(policy, encoder, config.model)
        algorithm = PPO(
            config,
            actor,
            _critic(config, policy, rewards) if config.advantage in NEEDS_CRITIC else None,
            reference,
            sampler,
            rewards.reward,
            loaded.train,
            common.probe_of(config, actor, reference, sampler, loaded.test, config.sampling, rewards.reward),
            common.card_of(config, "ppo"),
            rewards.range,
        )
        return common.train(algorithm, config, folder, Subject(loaded, encoder))


def _critic(config: PPOConfig, policy: Policy, rewards: Rewards) -> TorchLearner:
    critic = build_critic(_critic_start(config, policy, rewards), config.critic_head, config.seed)
    runs_as = config.critic if config.critic.name else config.model
    return TorchLearner(CriticNetwork(critic), config.train, precision_of(runs_as, critic.backbone.device))


def _critic_start(config: PPOConfig, policy: Policy, rewards: Rewards) -> Started:
    """What was named; else the reward model, which knows what is good, where it reads as the policy does; else the
    policy."""
    if config.critic.name:
        common.message(f"critic: starts from {config.critic.name}")
        return common.open_policy(config.critic, [], config.seed)
    for model in rewards.models:
        if not model.is_encoder and _same_tokens(model, policy):
            common.message(f"critic: starts from the reward model {model.name}")
            return model
    common.message("critic: starts from the policy (no causal reward model shares its tokenizer)")
    return policy


def _same_tokens(model: RewardModel, policy: Policy) -> bool:
    """The policy's every token means the same to the reward model, which may have a pad token more."""
    theirs = model.tokenizer.get_vocab()
    return all(theirs.get(token) == i for token, i in policy.tokenizer.get_vocab().items())
