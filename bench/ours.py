"""This package's side of every comparison: the learner, objectives and sampler that the commands use."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
)

from bench import material
from bench.sides import Clock, memory_mib, now, weights
from bench.turns import Turns
from concordant.algorithms.dpo import DPOObjective, branches_of, reference_logprobs
from concordant.algorithms.ppo import PPO, Players
from concordant.algorithms.reward import RewardObjective
from concordant.algorithms.rewards import Reward
from concordant.algorithms.rollouts import Sampler
from concordant.algorithms.sft import SFTObjective
from concordant.config.model import ModelConfig
from concordant.config.sampling import SamplingConfig
from concordant.config.stages import KLConfig, PPOConfig
from concordant.config.train import TrainConfig
from concordant.core.objective import Objective
from concordant.core.trees import PromptTree
from concordant.data.chat import ChatEncoder
from concordant.data.records import Prompt
from concordant.engines.local.generator import LocalGenerator
from concordant.engines.local.learner import LocalLearner
from concordant.engines.local.networks import CriticNetwork, PolicyNetwork, RewardNetwork
from concordant.engines.local.scorer import LocalScorer
from concordant.engines.reward_model import RewardModel
from concordant.engines.roles import open_policy
from concordant.kernels.allocator import freed_memory_kept
from concordant.kernels.products import multiply
from concordant.kernels.put_on import put_on
from concordant.models.layout import check_layout
from concordant.models.load import Policy
from concordant.models.scalar_head import build_critic
from concordant.models.traits import ModelTraits, prepare_model
from concordant.stages.rewarding import ModelReward

Step = Callable[[], dict[str, Any]]
# Both sides': TRL's and transformers' own defaults, and no schedule.
LEARNING_RATE, BETA2 = 1e-4, 0.999


class OurSide:
    """``settings``: see ``comparisons.Comparison``."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.folder, self.model = Path(settings["material"]), settings["model"]
        self.batch, self.batches = settings["batch"], settings["batches"]
        self.precision = torch.bfloat16 if settings["precision"] == "bf16" else None
        self.settings, self.device = settings, settings["device"]
        self.train = TrainConfig(batch_size=self.batch, learning_rate=LEARNING_RATE, beta2=BETA2)
        self.facts: dict[str, Any] = {}

    def policy(self) -> Policy:
        folder = self.folder / self.model
        if self.device == "cpu":
            return open_policy(ModelConfig(name=str(folder)))
        model = weights(AutoModelForCausalLM, folder, self.device).train()
        put_on(model)
        return Policy(model=model, tokenizer=self.tokenizer(), traits=prepare_model(model), name=self.model)

    def tokenizer(self) -> Any:
        return AutoTokenizer.from_pretrained(self.folder / self.model)

    def reward_model(self) -> RewardModel:
        folder = self.folder / f"{self.model}-reward"
        if self.device == "cpu":
            return RewardModel.from_pretrained(folder)
        model = weights(AutoModelForSequenceClassification, folder, self.device).train()
        put_on(model)
        return RewardModel(
            model=model,
            tokenizer=self.tokenizer(),
            traits=ModelTraits(check_layout(model)),
            is_encoder=False,
            name="bench",
        )

    def trees(self) -> list[PromptTree]:
        return [material.tree(row) for row in material.rows(self.folder, self.batch * self.batches)]

    def supervised(self, learner: LocalLearner, objective: Callable[[int], Objective], model: PreTrainedModel) -> Step:
        """A turn is a step on the next ``batch`` trees; ``objective`` is given the number of the batch."""
        trees = self.trees()
        batches = [trees[start : start + self.batch] for start in range(0, len(trees), self.batch)]
        flops = [step_flops(model, batch) for batch in batches]
        turns = iter(range(self.batches))

        def step() -> dict[str, Any]:
            number = next(turns)
            metrics = learner.forward_backward(batches[number], objective(number)).result()
            learner.step(LEARNING_RATE).result()
            tokens = sum(t.tokens for t in batches[number])
            return {"loss": metrics["loss"], "tokens": tokens, "flops": flops[number]}

        return step

    # -- the comparisons ------------------------------------------------------------------------

    def sft(self) -> Step:
        policy = self.policy()
        learner = LocalLearner(PolicyNetwork(policy), self.train, self.precision)
        return self.supervised(learner, lambda number: SFTObjective(), policy.model)

    def dpo(self) -> Step:
        policy = self.policy()
        learner = LocalLearner(PolicyNetwork(policy), self.train, self.precision)
        start = now()
        reference_B = reference_logprobs(learner.reference(), self.trees())
        self.facts["reference_seconds"] = (now() - start) / self.batches  # a batch

        def objective(number: int) -> DPOObjective:
            first = number * self.batch
            branches = branches_of(range(first, first + self.batch))
            return DPOObjective(reference_B[branches], "sigmoid", 0.1)

        return self.supervised(learner, objective, policy.model)

    def reward(self) -> Step:
        reward_model = self.reward_model()
        learner = LocalLearner(RewardNetwork(reward_model), self.train, self.precision)
        return self.supervised(learner, lambda number: RewardObjective(torch.zeros(self.batch)), reward_model.model)

    def ppo(self) -> Step:
        policy, reward_model = self.policy(), self.reward_model()
        samples = self.settings["samples"]
        config = PPOConfig(
            reward_normalize="none", gamma=1.0, lam=0.95, kl=KLConfig(coefficient=0.05), inner_epochs=4, minibatches=4,
            train=TrainConfig(
                batch_size=self.batch // samples, max_steps=self.batches, learning_rate=LEARNING_RATE, beta2=BETA2,
                max_grad_norm=0.0,
            ),
            sampling=SamplingConfig(n=samples, max_new_tokens=self.settings["new_tokens"], slots=self.batch),
        )  # fmt: skip
        rows = prompts_up_to(self.settings["longest_prompt"], self.folder, self.batch // samples)
        prompts = [Prompt(material.messages_of(row)) for row in rows]
        actor = LocalLearner(PolicyNetwork(policy), config.train, self.precision)
        critic = LocalLearner(CriticNetwork(build_critic(reward_model)), config.train, self.precision)
        sampler = Sampler(LocalGenerator(policy.model, (), precision=self.precision), ChatEncoder(policy.tokenizer))
        reward_model.model.requires_grad_(False)
        scorer = LocalScorer(RewardNetwork(reward_model), config.train, self.precision)
        reward = Reward.of("model", ModelReward(reward_model, scorer))
        players = Players(policy=actor, critic=critic, reference=actor.reference(), sampler=sampler, reward=reward)
        algorithm = PPO(config, players, prompts)
        turns = iter(range(self.batches))

        def step() -> dict[str, Any]:
            metrics = algorithm.step(next(turns), LEARNING_RATE)
            phases = {k: v for k, v in metrics.items() if k.startswith("seconds/")}
            names = {"policy_loss": "policy/loss", "score": "objective/score", "kl": "objective/kl"}
            found = {ours: metrics[name] for ours, name in names.items()}
            found |= {"entropy": metrics["objective/entropy_per_token"], "value_loss": 0.5 * metrics["value/loss"]}
            return found | {"phases": phases}  # the peer's value loss is half the squared error

        return step


def prompts_up_to(longest: int, folder: Path, count: int) -> list[dict]:
    rows = [row for row in material.rows(folder, 16 * count) if len(row["prompt_ids"]) <= longest]
    return rows[:count]


# -- how much of the machine is used ----------------------------------------------------------------


def step_flops(model: PreTrainedModel, trees: list[PromptTree]) -> float:
    """Multiply-adds × 2 that one step needs: 6 a weight and token of the backbone, 6 a weight of the head and response
    token, and attention to what each token may see. Nothing recomputed, no padding, no embedding look-up.
    """
    config = model.config
    embeddings = sum(m.weight.numel() for m in model.base_model.modules() if isinstance(m, nn.Embedding))
    backbone = sum(p.numel() for p in model.base_model.parameters() if p.ndim == 2) - embeddings
    has_head = model.get_output_embeddings() is not None
    head = config.vocab_size * config.hidden_size if has_head else 0
    tokens = sum(t.tokens for t in trees)
    responses = sum(len(b.ids_T) for t in trees for b in t.branches)
    pairs = sum(visible_pairs(t) for t in trees)
    return 6.0 * (backbone * tokens + head * responses) + 12.0 * config.num_hidden_layers * config.hidden_size * pairs


def visible_pairs(tree: PromptTree) -> int:
    """Pairs (query, key) of tokens in which the query may see the key."""
    trunk = len(tree.prompt_T)
    lengths = [len(b.ids_T) for b in tree.branches]
    return trunk * (trunk + 1) // 2 + sum(n * trunk + n * (n + 1) // 2 for n in lengths)


def gemm_rate(device: str = "cpu", dtype: torch.dtype | None = None, runs: int = 3) -> float:
    """Floating-point operations a second of a large square matrix product, the best run of either library."""
    size = 2048 if device == "cpu" else 8192
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    times = []
    for product in (torch.mm, multiply):
        product(a, b)
        for _ in range(runs):
            start = now()
            product(a, b)
            times.append(now() - start)
    return 2.0 * size**3 / min(times)


def main(settings: dict[str, Any]) -> None:
    clock = Clock(Turns())
    torch.set_num_threads(settings["threads"])
    side = OurSide(settings)
    step = getattr(side, settings["work"])()
    clock.turns.report(**side.facts, torch=torch.__version__)
    with freed_memory_kept():  # as in every run
        while True:
            clock.wait()
            numbers = step() | {"seconds": clock.seconds(), "peak_mib": memory_mib()}
            clock.report(**numbers, gemm_flops=gemm_rate(side.device, side.precision))  # in our turn, not in its time


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
