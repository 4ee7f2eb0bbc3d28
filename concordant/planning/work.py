"""The work of one step: how many trees of which size, which models, and which passes.

Every prompt has the same number of tokens, and every response too. The plan is for the longest batch then, and for the
mean one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from concordant.config.names import REFERENCE_FREE, OptimizerName, PlannedMethod, PreferenceLossName
from concordant.config.plan import PlanConfig
from concordant.planning.shapes import Shape

FP32, BF16 = 4, 2  # bytes of a number
# The engine's own numbers. A test compares them with the engine, which this package must not import.
GPU_MICRO_BATCH, CPU_MICRO_BATCH = 8192, 1536  # tokens of a pass with gradient where none are given
GPU_FORWARD, CPU_FORWARD = 32768, 2048  # tokens of a pass without gradient
FORWARD_FACTOR = 4  # a pass without gradient has so many times the tokens of one with gradient, at most
PREFILL_TOKENS = 8192  # tokens of prompts that the sampler reads at once
SAMPLED: tuple[PlannedMethod, ...] = ("ppo", "grpo", "distill")  # methods that sample their responses in the step
REWARDED: tuple[PlannedMethod, ...] = ("ppo", "grpo")  # methods that score them, and pass over them several times
NO_MODEL = "none"  # as reward_model: a Python function


@dataclass(frozen=True, slots=True)
class Tree:
    """One prompt with its responses."""

    prompt: int
    response: int
    branches: int

    @property
    def tokens(self) -> int:
        return self.prompt + self.branches * self.response

    @property
    def responses(self) -> int:
        """Response tokens of all branches."""
        return self.branches * self.response

    @property
    def seen_pairs(self) -> int:
        """Pairs (query, key) of tokens in which the query may see the key."""
        p, r = self.prompt, self.response
        return p * (p + 1) // 2 + self.branches * (r * p + r * (r + 1) // 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One step on all ranks."""

    method: PlannedMethod
    shape: Shape
    tree: Tree
    trees: int
    rank: int  # of the LoRA adapter; 0 trains all weights
    keep_best: bool
    optimizer: OptimizerName = "adamw"
    quantized: bool = False  # the frozen base has four bits a weight
    reward_shape: Shape | None  # of a reward model that scores; None without one
    teacher: Shape | None = None  # of distill
    inner_epochs: int = 1
    minibatches: int = 1
    slots: int = 64
    micro_batch_tokens: int = 0  # as given; 0: the plan chooses
    bf16: bool = True  # autocast
    loss: PreferenceLossName = "sigmoid"  # of dpo
    shares: bool = False  # the critic is an adapter on the policy's frozen base
    reward_shares: bool = False  # so is the reward model

    @property
    def samples(self) -> bool:
        """Whether the responses are sampled in the step."""
        return self.method in SAMPLED

    @property
    def has_critic(self) -> bool:
        return self.method == "ppo"

    @property
    def whole_critic(self) -> Shape | None:
        """The shape of a critic whose weights are all trained, which starts from a whole reward model."""
        return None if self.shares else self.reward_shape

    @property
    def has_reference(self) -> bool:
        return self.method in ("ppo", "grpo") or (self.method == "dpo" and self.loss not in REFERENCE_FREE)

    @property
    def has_head(self) -> bool:
        """Whether the trained model has a language-model head."""
        return self.method != "reward"

    @property
    def tokens(self) -> int:
        """Tokens of the trees of a step; a prompt is counted once for all its responses."""
        return self.trees * self.tree.tokens

    @property
    def read(self) -> int:
        """Positions of a tree that a head reads: the last of each branch for a score, else every response token."""
        return self.tree.branches if self.method == "reward" else self.tree.responses


def branches_of(method: PlannedMethod, samples: int) -> int:
    return {"sft": 1, "reward": 2, "dpo": 2}.get(method, samples)


def work_of(
    config: PlanConfig, shape: Shape, reward_shape: Shape | None, is_gpu: bool, teacher: Shape | None = None
) -> Work:
    """The work that ``config`` describes. ``reward_shape``: None if a function gives the rewards."""
    rewarded = config.method in REWARDED
    bf16 = config.model.precision == "bf16" or (config.model.precision == "auto" and is_gpu)
    return Work(
        method=config.method,
        shape=shape,
        tree=Tree(config.prompt_tokens, config.response_tokens, branches_of(config.method, config.samples)),
        trees=config.batch_size,
        rank=config.model.lora.rank,
        keep_best=config.keep_best,
        optimizer=config.optimizer,
        quantized=config.model.quantize != "none",
        reward_shape=reward_shape if rewarded else None,
        teacher=(teacher or shape) if config.method == "distill" else None,
        inner_epochs=config.inner_epochs if rewarded else 1,
        minibatches=config.minibatches if rewarded else 1,
        slots=config.slots,
        micro_batch_tokens=config.micro_batch_tokens,
        bf16=bf16,
        loss=config.loss,
        shares=config.share_backbone != "none" and config.method == "ppo",
        reward_shares=config.share_backbone != "none" and not config.reward_model,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """How the work is divided: mesh, sharding, recomputation and the tokens of a pass with gradient."""

    data: int = 1
    tensor: int = 1
    pipeline: int = 1
    sharded: bool = False  # data-parallel ranks divide weights, gradients and optimizer state
    offload: bool = False  # and keep them in the processor's memory
    recompute: bool = False  # activation checkpointing
    micro_batch_tokens: int = CPU_MICRO_BATCH

    @property
    def workers(self) -> int:
        return self.data * self.tensor * self.pipeline

    def trees_of_rank(self, work: Work) -> int:
        """The trees of the rank with most of them, in a whole step."""
        return math.ceil(work.trees / self.data)

    def trees_of_stage(self, work: Work) -> int:
        """The trees for which a stage of a pipeline samples: the stages share those of their rank out."""
        return math.ceil(self.trees_of_rank(work) / self.pipeline)

    def minibatch(self, work: Work) -> int:
        """The trees of the rank between two optimizer steps."""
        return math.ceil(self.trees_of_rank(work) / work.minibatches)

    def micro_batches(self, work: Work, packed: bool) -> int:
        """Passes with gradient between two optimizer steps. ``packed``: trees share a row, so passes can be equal."""
        trees, size = self.minibatch(work), work.tree.tokens
        if packed:
            return min(trees, math.ceil(trees * size / self.micro_batch_tokens))
        return math.ceil(trees / max(1, self.micro_batch_tokens // size))

    def trees_at_once(self, work: Work, packed: bool) -> int:
        """The trees of the largest pass with gradient."""
        trees, size = self.minibatch(work), work.tree.tokens
        most = max(1, self.micro_batch_tokens // size)
        return min(most, math.ceil(trees / self.micro_batches(work, packed))) if packed else min(most, trees)
