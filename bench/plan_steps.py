"""The steps that ``bench.plan`` measures: the learners, objectives and sampler of the commands, on trees of equal size.

Random weights and random tokens cost the same as others. No tokenizer is needed, because no text is read or written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from concordant.algorithms.dpo import DPOObjective, branches_of, reference_logprobs
from concordant.algorithms.ppo import PPO, Players
from concordant.algorithms.reward import RewardObjective
from concordant.algorithms.rewards import Answer, Reward
from concordant.algorithms.rollouts import Rollouts
from concordant.algorithms.sft import SFTObjective
from concordant.config.plan import ShapeConfig
from concordant.config.sampling import SamplingConfig
from concordant.config.stages import PPOConfig
from concordant.config.train import TrainConfig
from concordant.core.objective import Outputs
from concordant.core.seeding import torch_stream
from concordant.core.trees import Branch, PromptTree
from concordant.data.records import Message, Prompt
from concordant.engines.local.generator import LocalGenerator
from concordant.engines.local.learner import LocalLearner
from concordant.engines.local.networks import CriticNetwork, PolicyNetwork, RewardNetwork
from concordant.engines.local.scorer import LocalScorer
from concordant.engines.protocol import Done
from concordant.engines.reward_model import RewardModel
from concordant.kernels.put_on import put_on
from concordant.models.layout import check_layout
from concordant.models.load import Policy, make_deterministic
from concordant.models.lora import apply_lora_to_model
from concordant.models.scalar_head import build_critic
from concordant.models.traits import ModelTraits, prepare_model

RATE = 1e-4
TRAIN = TrainConfig(learning_rate=RATE, micro_batch_tokens=1_536)
Step = Callable[[int], dict[str, float]]  # number of the step -> seconds by phase


def warm_libraries() -> None:
    """Do a little of everything, so that what the libraries load and compile belongs to the base."""
    policy = _policy(ShapeConfig(vocabulary=64, hidden=64, layers=1, heads=2, mlp=64, tied=True), 0)
    learner = LocalLearner(PolicyNetwork(policy), TRAIN)
    learner.forward_backward(trees_of(2, 8, 8, 1, 64, 0), SFTObjective()).result()
    learner.step(RATE).result()


def step_of(row: Any, shape: ShapeConfig, slots: int) -> Step:
    if row.method == "ppo":
        return _ppo(row, shape, slots)
    branches = 1 if row.method == "sft" else 2

    def trees(number: int) -> list[PromptTree]:
        return trees_of(row.batch, row.prompt, row.response, branches, shape.vocabulary, number)

    if row.method == "reward":
        reward_model = _reward_model(shape, row.rank)
        learner = LocalLearner(RewardNetwork(reward_model), TRAIN)
        objective: Any = RewardObjective(torch.zeros(row.batch))
    else:
        learner = LocalLearner(PolicyNetwork(_policy(shape, row.rank)), TRAIN)
        objective = SFTObjective()
    if row.method == "dpo":
        reference_B = reference_logprobs(learner.reference(), trees(0))
        objective = DPOObjective(reference_B[branches_of(range(row.batch))], "sigmoid", 0.1)

    def step(number: int) -> dict[str, float]:
        learner.forward_backward(trees(number if row.method != "dpo" else 0), objective).result()
        learner.step(RATE).result()
        return {}

    return step


def _ppo(row: Any, shape: ShapeConfig, slots: int) -> Step:
    policy, reward_model = _policy(shape, row.rank), _reward_model(shape, 0)
    reward_model.model.requires_grad_(False)
    sampling = SamplingConfig(n=row.samples, max_new_tokens=row.response, slots=slots)
    config = PPOConfig(
        reward_normalize="none", inner_epochs=1, minibatches=2, sampling=sampling,
        train=TrainConfig(learning_rate=RATE, micro_batch_tokens=1_536, batch_size=row.batch, max_steps=100),
    )  # fmt: skip
    actor = LocalLearner(PolicyNetwork(policy), config.train)
    critic = LocalLearner(CriticNetwork(build_critic(reward_model)), config.train)
    sampler = _Sampler(LocalGenerator(policy.model, ()), row, shape.vocabulary)
    scorer = LocalScorer(RewardNetwork(reward_model), config.train)

    def score(answers: Sequence[Answer]) -> Done[Sequence[float]]:
        assert sampler.last is not None
        score_B = scorer.forward(sampler.last.trees, Outputs(score=True)).result().score_B
        assert score_B is not None and len(score_B) == len(answers)
        return Done(score_B.tolist())

    players = Players(
        policy=actor, critic=critic, reference=actor.reference(), sampler=sampler,  # type: ignore[arg-type]
        reward=Reward.of("model", score),
    )  # fmt: skip
    algorithm = PPO(config, players, [Prompt((Message("user", ""),))] * row.batch)

    def step(number: int) -> dict[str, float]:
        metrics = algorithm.step(number, RATE)
        return {name: value for name, value in metrics.items() if name.startswith("seconds/")}

    return step


class _Sampler:
    """Answers random prompts of one length; every response has the most tokens, because no token ends it."""

    def __init__(self, generator: LocalGenerator, row: Any, vocabulary: int) -> None:
        self.generator, self.row, self.vocabulary = generator, row, vocabulary
        self.last: Rollouts | None = None

    def __call__(self, prompts: Sequence[Prompt], sampling: SamplingConfig, seed: int) -> Rollouts:
        stream = torch_stream(seed, "bench/plan")
        ids = [_random(self.row.prompt, self.vocabulary, stream) for _ in prompts]
        groups = self.generator.generate(ids, sampling, seed).result()
        flat = [completion for group in groups for completion in group]
        self.last = Rollouts(
            [PromptTree(i, tuple(Branch.response(c.ids_T) for c in g)) for i, g in zip(ids, groups, strict=True)],
            [Answer(prompt.messages, "", False, {}) for prompt in prompts for _ in range(sampling.n)],
            torch.cat([c.logprob_T for c in flat]),
            torch.zeros(len(flat), dtype=torch.bool),
            torch.tensor([len(c.ids_T) for c in flat]),
            torch.tensor([g for g, group in enumerate(groups) for _ in group]),
            flat[0].version,
        )
        return self.last


# -- material -----------------------------------------------------------------------------------------


def llama_config(shape: ShapeConfig) -> LlamaConfig:
    return LlamaConfig(  # type: ignore[call-arg]  # num_labels is a key of every configuration
        vocab_size=shape.vocabulary, hidden_size=shape.hidden, intermediate_size=shape.mlp,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads or shape.heads, tie_word_embeddings=shape.tied, num_labels=1, pad_token_id=0,
    )  # fmt: skip


def _policy(shape: ShapeConfig, rank: int) -> Policy:
    torch.manual_seed(0)
    model = LlamaForCausalLM(llama_config(shape)).train()
    make_deterministic(model)
    traits = prepare_model(model)
    if rank:
        apply_lora_to_model(model, r=rank)
    put_on(model)
    return Policy(model=model, tokenizer=None, traits=traits, name="random")  # type: ignore[arg-type]


def _reward_model(shape: ShapeConfig, rank: int) -> RewardModel:
    torch.manual_seed(0)
    model = LlamaForSequenceClassification(llama_config(shape)).train()
    make_deterministic(model)
    layout = check_layout(model)
    if rank:
        apply_lora_to_model(model, r=rank)
    put_on(model)
    traits = ModelTraits(layout)
    return RewardModel(model=model, tokenizer=None, traits=traits, is_encoder=False, name="random")  # type: ignore[arg-type]


def _random(count: int, vocabulary: int, stream: torch.Generator) -> Tensor:
    return torch.randint(1, vocabulary, (count,), generator=stream)


def trees_of(count: int, prompt: int, response: int, branches: int, vocabulary: int, seed: int) -> list[PromptTree]:
    stream = torch_stream(seed, "bench/plan")
    return [
        PromptTree(
            _random(prompt, vocabulary, stream),
            tuple(Branch.response(_random(response, vocabulary, stream)) for _ in range(branches)),
        )
        for _ in range(count)
    ]
