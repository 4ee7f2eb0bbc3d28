"""Settings of ``concordant plan``."""

from __future__ import annotations

from dataclasses import dataclass, field

from concordant.config.made import Made
from concordant.config.model import ModelConfig
from concordant.config.names import (
    BackboneSharing,
    HardwareName,
    ModelKind,
    OptimizerName,
    PlannedMethod,
    PreferenceLossName,
    Sharding,
)


@dataclass(kw_only=True)
class ShapeConfig(Made):
    kind: ModelKind = "llama"  # architecture, by transformers' name
    vocabulary: int = 0  # tokens of the vocabulary
    hidden: int = 0  # hidden size
    layers: int = 0  # number of layers
    heads: int = 0  # heads of attention
    kv_heads: int = 0  # heads of keys and values; 0: as many as heads
    head_size: int = 0  # size of a head; 0: hidden / heads
    mlp: int = 0  # size of the MLP's inner layer
    tied: bool = False  # embedding and language-model head are one matrix


@dataclass(kw_only=True)
class PlanConfig(Made):
    model: ModelConfig = field(default_factory=ModelConfig)  # name: a known model, or a folder with config.json
    shape: ShapeConfig = field(default_factory=ShapeConfig)  # dimensions, instead of model.name
    method: PlannedMethod = "sft"  # the verb that will train; grpo is ppo with advantage grpo
    loss: PreferenceLossName = "sigmoid"  # of dpo: simpo, orpo, cpo and slic need no reference
    hardware: HardwareName = "h100-80gb"  # of every worker
    gpus: int = 0  # workers, one on each GPU; 0: the smallest number that fits
    most_gpus: int = 1024  # the largest number that is tried
    tensor: int = 0  # ranks that divide each matrix; 0: chosen
    pipeline: int = 0  # stages that divide the layers; 0: chosen
    sharding: Sharding = "auto"  # whether data-parallel ranks divide weights and optimizer state (FSDP); auto: chosen
    offload: bool = False  # as cluster.offload: divided weights and their state wait in the processor's memory
    optimizer: OptimizerName = "adamw"  # as train.optimizer: its state takes memory
    prompt_tokens: int = 512  # tokens of every prompt
    response_tokens: int = 512  # tokens of every response
    batch_size: int = 32  # prompts in each step
    micro_batch_tokens: int = 0  # tokens of a pass with gradient; 0: chosen
    keep_best: bool = True  # as train.keep_best: the weights of the best evaluation are kept beside the present ones
    samples: int = 4  # of ppo, grpo and distill: responses to each prompt
    inner_epochs: int = 1  # of ppo and grpo: passes over a step's responses
    minibatches: int = 2  # of ppo and grpo: optimizer steps in each pass
    slots: int = 64  # responses that a rank samples at once; dpo samples only to evaluate
    reward_model: str = ""  # of ppo and grpo: a known model or a folder; empty: the policy's shape; none: a function
    teacher: str = ""  # of distill: a known model or a folder; empty: a teacher of the student's shape
    share_backbone: BackboneSharing = "none"  # as of ppo; a reward model with the policy's shape shares the base too
    steps: int = 1000  # steps of the run whose time and cost are shown
    assume: list[str] = field(default_factory=list)  # NAME=NUMBER, in place of a number in the table of assumptions
    json: bool = False  # the plan as JSON on stdout, for scripts
