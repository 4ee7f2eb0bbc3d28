"""``concordant ppo``: train a policy on the rewards of its own answers."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from concordant.algorithms.constraint import Constraint
from concordant.algorithms.ppo import PPO, Players, resolved
from concordant.algorithms.reward_sources import wanted_columns
from concordant.config.checks import checked
from concordant.config.model import ModelConfig
from concordant.config.names import NEEDS_CRITIC
from concordant.config.stages import PPOConfig
from concordant.core.errors import UserError
from concordant.data.carried import NOTHING
from concordant.data.chat import ChatEncoder
from concordant.data.records import Prompt
from concordant.doctor.preflight import Subject
from concordant.engines import roles
from concordant.engines.protocol import Learner
from concordant.engines.reward_model import RewardModel
from concordant.models.load import Policy
from concordant.stages import common
from concordant.stages.cards import card_of
from concordant.stages.retaining import retained
from concordant.stages.rewarding import Rewards, handling_of


@checked
def ppo(config: PPOConfig) -> Path:
    """Train a policy with PPO, RLOO or GRPO, and return the run folder."""
    config = resolved(config)
    with common.opened(config, "ppo") as folder:
        environments = common.environments_of(config.environment)
        wanted = wanted_columns(_sources(config)) | (environments.wanted if environments else NOTHING)
        loaded = common.read(config, folder, Prompt, "prompts", wanted=wanted)
        policy = common.open_policy(config.model, config.data, loaded.train, config.seed)
        encoder = ChatEncoder(
            policy.tokenizer, replace(common.limits_of(config.data, policy), too_long="cut_prompt_start")
        )
        loaded = replace(
            loaded,
            train=common.accepted(loaded.train, encoder, "prompts"),
            test=common.accepted(loaded.test, encoder, "held-out prompts", needed=False),
        )
        config = common.settled(config, folder, common.start_of("ppo", len(loaded.train), policy, config.model))
        if config.train.batch_size < config.minibatches:
            raise UserError(
                f"minibatches={config.minibatches}: a step has {config.train.batch_size} of {len(loaded.train)} "
                "prompts, so a minibatch would hold none; give more prompts, or fewer minibatches"
            )
        rewards = Rewards(
            config.reward, config.model, config.train, handling_of(config), config.scoring,
            partial(_reward_model, config, policy),
        )  # fmt: skip
        for name, correction in rewards.corrections.items():
            folder.log_event({"kind": "correction", "reward": name, **asdict(correction)})
        costs = None
        if config.constraint.cost:
            costs = Rewards([config.constraint.cost], config.model, config.train, handling_of(config))
        for scores in filter(None, (rewards, costs)):
            scores.check([*loaded.train, *loaded.test], loaded.wanted_names)
        if environments:
            environments.check([*loaded.train, *loaded.test], loaded.wanted_names)
        if config.stop_disagreement and not loaded.test:
            raise UserError("stop_disagreement: the disagreement is measured on held-out prompts, and there are none")
        temperature = config.sampling.temperature
        actor = roles.policy_learner(policy, config.model, config.train, temperature)
        reference = roles.reference(actor, policy, config.reference, config.model, config.train, temperature)
        sampler = common.sampler_of(policy, encoder, config.model, config.sampling, environments)
        players = Players(
            policy=actor,
            critic=_critic(config, policy, rewards) if config.advantage in NEEDS_CRITIC else None,
            reference=reference,
            sampler=sampler,
            reward=rewards.reward,
            constraint=Constraint(costs.reward, config.constraint, costs.range) if costs else None,
            reward_range=rewards.range,
            retention=retained(config.retain, policy, actor, config.seed),
            probe=common.probe_of(
                config, actor, reference, sampler, loaded.test, config.sampling,
                rewards.reward, costs.reward if costs else None,
            ),
        )  # fmt: skip
        algorithm = PPO(config, players, loaded.train, card_of(config, "ppo", loaded))
        return common.train(algorithm, config, folder, Subject(loaded, encoder))


def _sources(config: PPOConfig) -> list[str]:
    return [*config.reward, *filter(None, [config.constraint.cost])]


def _reward_model(config: PPOConfig, policy: Policy, name: str, model: ModelConfig) -> RewardModel:
    """The reward model ``name``, on the policy's base if ``share_backbone`` asks for this and its own base is equal."""
    if config.share_backbone == "none":
        return roles.open_reward_model(name, model)
    try:
        return roles.reward_model_on(policy, name, model)
    except UserError as why:
        if config.share_backbone == "all":
            raise UserError(
                f"share_backbone=all: the reward model {name} cannot be an adapter on the policy's base: {why}; set "
                "share_backbone auto to load it as a model of its own"
            ) from why
        common.message(f"reward model {name}: a model of its own in memory ({why})")
        return roles.open_reward_model(name, model)


def _critic(config: PPOConfig, policy: Policy, rewards: Rewards) -> Learner:
    start, name = roles.critic_start(config, policy, rewards.models)
    common.message(f"critic: starts from {name}")
    return roles.critic_learner(start, config)
