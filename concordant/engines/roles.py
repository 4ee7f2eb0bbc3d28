"""The one place that chooses engines. It makes learners, scorers and generators from a config.

No file outside ``engines/`` names the class of an engine. If several processes work together (``engines/group``), the
functions that are marked with ``everywhere`` run in each of them, and those that are marked with ``everywhere_as`` in
each of those that play the role. vLLM's generator has a copy of the weights.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

from transformers import PreTrainedModel

from concordant.config.model import LoraConfig, ModelConfig
from concordant.config.sampling import SamplingConfig
from concordant.config.stages import PPOConfig
from concordant.config.train import TrainConfig
from concordant.core.errors import UserError
from concordant.core.trees import ROW_TOKENS
from concordant.engines.group.everywhere import arithmetic as arithmetic
from concordant.engines.group.everywhere import everywhere, everywhere_as, stands_apart
from concordant.engines.group.everywhere import working_together as working_together
from concordant.engines.local.generator import LocalGenerator
from concordant.engines.local.learner import LocalLearner
from concordant.engines.local.networks import CriticNetwork, PolicyNetwork, RewardNetwork, computing_device
from concordant.engines.local.precision import place, precision_of
from concordant.engines.local.scorer import LocalScorer
from concordant.engines.local.sharding import whole_model
from concordant.engines.local.weights import LocalWeights
from concordant.engines.memory import enough_memory
from concordant.engines.pipeline.stages import hold_on_last_stage, split_into_stages
from concordant.engines.protocol import Generator, Learner, Scorer
from concordant.engines.ranks import current_ranks
from concordant.engines.reward_adapter import AdapterRewardModel, adapter_reward_model
from concordant.engines.reward_model import RewardModel
from concordant.engines.samples import Batch
from concordant.engines.tensor.cuts import pieces_of
from concordant.engines.tensor.cuts import weights_of as weights_of
from concordant.engines.tensor.split import split_over, split_value_head
from concordant.engines.vllm.engine import VllmSettings, device_type
from concordant.engines.vllm.generator import VllmGenerator
from concordant.engines.vllm.weights import write_config
from concordant.kernels.allocator import give_back
from concordant.models.load import Policy, load_policy
from concordant.models.scalar_head import Started, build_critic, critic_on_same_base

# -- policies -------------------------------------------------------------------------------------


def open_policy(config: ModelConfig, texts: Iterable[str] | None = None, seed: int = 0) -> Policy:
    """The policy on its device. ``texts`` are the training texts of a built-in model's tokenizer."""
    return _open_policy(config, None if texts is None else list(texts), seed, None)


def open_student(config: ModelConfig, teacher: Policy, seed: int = 0) -> Policy:
    """The policy that learns from ``teacher``. A built-in one is made for the teacher's tokenizer.

    UserError if the two read other tokens.
    """
    policy = _open_policy(config, None, seed, teacher)
    refuse_other_tokens(policy, teacher, f"teacher {teacher.name}", "student's", "the distributions are compared")
    return policy


@everywhere
def _open_policy(config: ModelConfig, texts: list[str] | None, seed: int, like: Policy | None) -> Policy:
    with enough_memory(f"loading {config.name}", "take a smaller model"):
        policy = load_policy(config, texts, seed, like.tokenizer if like else None)
        place(policy.model, config)
        _part(policy.model)
    return policy


@everywhere
def policy_learner(
    policy: Policy, model: ModelConfig, train: TrainConfig, temperature: float = 1.0, row_tokens: int = ROW_TOKENS
) -> Learner:
    return LocalLearner(
        PolicyNetwork(policy), train, precision_of(model, computing_device(policy.model)), temperature, row_tokens
    )


@everywhere
def policy_scorer(
    policy: Policy, model: ModelConfig, train: TrainConfig | None = None, temperature: float = 1.0
) -> Scorer:
    """A policy that is read and not trained."""
    return LocalScorer(PolicyNetwork(policy), train, precision_of(model, computing_device(policy.model)), temperature)


def reference(
    learner: Learner, policy: Policy, folder: str, model: ModelConfig, train: TrainConfig, temperature: float = 1.0
) -> Scorer:
    """The frozen reference of ``policy``: the model in ``folder``, or the learner's present policy without a folder."""
    apart = stands_apart("reference")
    if not folder:
        return _frozen_scorer(policy, model, train, temperature) if apart else learner.reference()
    other = open_policy(replace(model, name=folder, adapter="", lora=LoraConfig()), [])
    refuse_other_tokens(policy, other, f"reference {folder}", "policy's", "KL is measured")
    scorer = _frozen_scorer(other, model, train, temperature)
    if not apart:
        learner.set_reference(scorer)
    return scorer


def refuse_other_tokens(policy: Policy, other: Policy, name: str, whose: str, what: str) -> None:
    """UserError if the tokenizers of ``policy`` and of ``other`` differ. ``name``: of the other in the message."""
    theirs, ours = other.tokenizer.get_vocab(), policy.tokenizer.get_vocab()
    if theirs != ours:
        raise UserError(
            f"{name}: its tokenizer ({len(theirs)} tokens) differs from the {whose} ({len(ours)} tokens); "
            f"{what} token by token, so both models must read the same ids"
        )


def open_teacher(name: str, model: ModelConfig) -> Policy:
    """The frozen policy ``name``, on the device and in the precision of ``model``."""
    settings = replace(model, name=name, adapter="", lora=LoraConfig(), quantize="none", activation_checkpointing=False)
    teacher = open_policy(settings, [])
    teacher.model.requires_grad_(False)
    return teacher


def learn_from(learner: Learner, teacher: Policy, model: ModelConfig, train: TrainConfig, temperature: float) -> Scorer:
    """Measure ``Outputs.divergence`` of ``learner`` from ``teacher``, of which no copy is made. Returns its scorer."""
    known = policy_scorer(teacher, model, train, temperature)
    learner.set_reference(known)
    return known


@everywhere_as("reference")
def _frozen_scorer(policy: Policy, model: ModelConfig, train: TrainConfig, temperature: float) -> Scorer:
    precision = precision_of(model, computing_device(policy.model))
    return LocalScorer(PolicyNetwork(policy).frozen(), train, precision, temperature)


def generator(
    policy: Policy,
    end_ids: Iterable[int],
    model: ModelConfig,
    sampling: SamplingConfig | None = None,
    longest: int = ROW_TOKENS,
) -> Generator:
    """A generator of the policy's answers, by the engine that ``sampling`` names.

    Our own sampler shares its weights with the policy's learner; vLLM starts with a copy of the present weights. A
    response ends at any of ``end_ids`` and at the end tokens of the model's own generation config. A prompt with its
    response has at most ``longest`` tokens; our own sampler does not need to know.
    """
    return _generator(policy, sorted({*end_ids, *_generation_ends(policy)}), model, sampling, longest)


@everywhere_as("generator")
def _generator(
    policy: Policy, ends: list[int], model: ModelConfig, sampling: SamplingConfig | None, longest: int
) -> Generator:
    precision = precision_of(model, computing_device(policy.model))
    if sampling is None or sampling.engine == "own":
        return LocalGenerator(policy.model, ends, precision=precision, tokenizer=policy.tokenizer)
    ranks = current_ranks()
    if ranks.shards * ranks.tensor.size * ranks.stages.size > 1:
        raise UserError(
            "sampling.engine vllm samples in one process and splits no batch; leave cluster.shards out, and leave "
            "cluster.workers out or give vLLM a worker of its own by cluster.apart.generator 1"
        )
    settings = VllmSettings(longest=longest, slots=sampling.slots, precision=precision, sleeps=True)
    return _vllm_generator(policy, ends, settings)


def _vllm_generator(policy: Policy, ends: Sequence[int], settings: VllmSettings) -> Generator:
    built_for, device = device_type(), computing_device(policy.model).type
    if built_for != device:
        raise UserError(
            f"sampling.engine vllm: this build of vLLM computes on {built_for}, and the policy is on {device}; give "
            f"--model.device {built_for}, or install the build of vLLM for {device}"
        )
    with tempfile.TemporaryDirectory() as folder:
        write_config(policy.model, folder)
        made = VllmGenerator(folder, ends, settings, tokenizer=policy.tokenizer)
    made.load_weights(LocalWeights(policy.model, 0))
    return made


def running_batch(
    policy: Policy, end_ids: Iterable[int], model: ModelConfig, slots: int, columns: int, adapters: Sequence[str] = ()
) -> Batch:
    """An empty batch of our own sampler, which responses of many callers join and leave.

    ``columns`` are the most tokens of a prompt with its response. ``adapters`` are the names of the policy's adapters
    among which each response chooses; without them the policy is used as it stands.
    """
    ends = sorted({*end_ids, *_generation_ends(policy)})
    precision = precision_of(model, computing_device(policy.model))
    return LocalGenerator(policy.model, ends, precision=precision).running(slots, columns, adapters)


def _generation_ends(policy: Policy) -> list[int]:
    ids = policy.model.generation_config.eos_token_id if policy.model.generation_config else None
    return ids if isinstance(ids, list) else [] if ids is None else [ids]


def _part(model: PreTrainedModel) -> None:
    """Keep this process's part of a model that several processes hold together."""
    split_over(model, current_ranks())
    split_into_stages(model, current_ranks())
    if pieces_of(model):
        give_back()  # the whole weights


# -- reward models --------------------------------------------------------------------------------


@everywhere
def new_reward_model(
    config: ModelConfig, texts: Sequence[str] | None, seed: int, keep_lm_head: bool, heads: int = 1
) -> RewardModel:
    """A reward model on its device, ready to be trained."""
    made = RewardModel.from_backbone(config, texts, seed, keep_lm_head, heads)
    _part(made.model)
    return made


@everywhere
def open_reward_model(name: str, config: ModelConfig) -> RewardModel:
    """The saved reward model ``name``, frozen, on the device that ``config`` asks for."""
    model = RewardModel.from_pretrained(name, config.trust_remote_code, config.device, config.kernels)
    model.model.requires_grad_(False)
    _part(model.model)
    return model


@everywhere
def reward_model_on(policy: Policy, name: str, config: ModelConfig) -> RewardModel:
    """The saved reward model ``name`` as an adapter and a head over the frozen base of ``policy``.

    UserError if the reward model is not an adapter over this base.
    """
    return adapter_reward_model(policy, name, config.trust_remote_code)


@everywhere
def reward_learner(reward_model: RewardModel, model: ModelConfig, train: TrainConfig) -> Learner:
    return LocalLearner(RewardNetwork(reward_model), train, precision_of(model, computing_device(reward_model.model)))


@everywhere_as("reward")
def reward_scorer(reward_model: RewardModel, model: ModelConfig, train: TrainConfig | None = None) -> Scorer:
    return LocalScorer(RewardNetwork(reward_model), train, precision_of(model, computing_device(reward_model.model)))


# -- the critic -----------------------------------------------------------------------------------


def critic_start(config: PPOConfig, policy: Policy, reward_models: Sequence[RewardModel]) -> tuple[Started, str]:
    """The model from which the critic starts, and the reason in words.

    It is the model that ``critic.name`` names; otherwise a causal reward model with the policy's tokenizer, because a
    reward model already knows which answers are good; otherwise the policy. A critic that shares the policy's backbone
    starts from a reward model on this backbone, or else from the policy.
    """
    if config.critic.name:
        return open_policy(config.critic, [], config.seed), config.critic.name
    if config.share_backbone != "none":
        for model in reward_models:
            if isinstance(model, AdapterRewardModel):
                return model, f"the adapter of the reward model {model.name}, on the policy's base"
        return policy, "the policy's adapter, on the policy's base (no reward model is an adapter on this base)"
    for model in reward_models:
        if not model.is_encoder and _same_tokens(model, policy):
            return model, f"the reward model {model.name}"
    return policy, "the policy (no causal reward model shares its tokenizer)"


def _same_tokens(model: RewardModel, policy: Policy) -> bool:
    """Whether every token of the policy has the same id in the reward model, which may have an extra pad token."""
    theirs = model.tokenizer.get_vocab()
    return all(theirs.get(token) == i for token, i in policy.tokenizer.get_vocab().items())


def critic_learner(start: Started, config: PPOConfig) -> Learner:
    runs_as = config.critic if config.critic.name else config.model
    return _critic_learner(start, config, runs_as)


@everywhere_as("critic")
def _critic_learner(start: Started, config: PPOConfig, runs_as: ModelConfig) -> Learner:
    if config.share_backbone == "none" or config.critic.name:
        critic = build_critic(_whole(start), config.critic_head, config.seed)
    else:
        source = start.adapter if isinstance(start, AdapterRewardModel) else "default"
        critic = critic_on_same_base(start, source, config.critic_head, config.seed)
    split_value_head(critic.head, current_ranks())
    hold_on_last_stage(critic.head, current_ranks())
    return LocalLearner(CriticNetwork(critic), config.train, precision_of(runs_as, computing_device(critic.backbone)))


def _whole(start: Started) -> Started:
    """``start`` with whole weights, also if its learner has split them over the workers."""
    model = whole_model(start.model)
    return start if model is start.model else cast(Started, SimpleNamespace(model=model, traits=start.traits))
