"""A healthy run of any stage, drawn by seed: model, data, rates and algorithm vary as people's do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import concordant
from bench.doctor_world import DATA, SIZES, World, model, train
from concordant.config.data import DataConfig
from concordant.config.sampling import SamplingConfig
from concordant.config.stages import DPOConfig, KLConfig, PPOConfig, RewardConfig, RunConfig, SFTConfig
from concordant.core.seeding import python_stream

STAGES: dict[str, Callable[..., Path]] = {
    "sft": concordant.sft, "reward": concordant.reward, "dpo": concordant.dpo, "ppo": concordant.ppo
}  # fmt: skip
NEW_TOKENS = 48


def healthy(stage: str, seed: int, world: World, output: Path) -> RunConfig:
    """The config of run ``seed`` of ``stage``."""
    draw = python_stream(seed, "bench/doctor", stage)
    data = replace(DATA, path=draw.choice(("builtin:toytalk", "builtin:toytalk", "builtin:toytalk/human")))
    shared = {"output": str(output), "seed": seed, "data": data}
    return _MAKERS[stage](draw, draw.choice(sorted(SIZES)), world, shared)


def _rate(draw: Random, usual: float) -> float:
    return usual * draw.choice((0.5, 1.0, 1.0, 1.5))


def _sft(draw: Random, size: str, world: World, shared: dict) -> SFTConfig:
    start, rank = draw.choice(((f"builtin:{size}", 0), (f"builtin:{size}", 0), (world.sft(size), 8)))
    rate = _rate(draw, 5e-3)
    schedule = draw.choice(("linear", "cosine", "constant"))
    return SFTConfig(
        **shared, model=model(start, rank), responses=draw.choice(("both", "chosen")),
        train=train(max_steps=42, batch_size=12, learning_rate=rate, schedule=schedule, evaluate_every=15),
    )  # fmt: skip


def _reward(draw: Random, size: str, world: World, shared: dict) -> RewardConfig:
    rank = draw.choice((0, 0, 8))
    rate = _rate(draw, 1e-3) * (2 if rank else 1)
    return RewardConfig(
        **shared, model=model(world.sft(size), rank), lm_coefficient=draw.choice((0.0, 0.0, 0.3)),
        train=train(max_steps=48, batch_size=16, learning_rate=rate, evaluate_every=16),
    )  # fmt: skip


def _dpo(draw: Random, size: str, world: World, shared: dict) -> DPOConfig:
    rank = draw.choice((0, 0, 8))
    rate = _rate(draw, 2e-4) * (3 if rank else 1)
    return DPOConfig(
        **shared, model=model(world.sft(size), rank), beta=draw.choice((0.1, 0.3, 0.5)),
        train=train(max_steps=40, batch_size=16, learning_rate=rate, evaluate_every=13),
    )  # fmt: skip


def _ppo(draw: Random, size: str, world: World, shared: dict) -> PPOConfig:
    advantage = draw.choice(("gae", "gae", "rloo", "grpo"))
    # Answers are sampled, so only sampling.max_new_tokens limits their length.
    shared = shared | {"data": replace(shared["data"], max_response_tokens=DataConfig().max_response_tokens)}
    return PPOConfig(
        **shared, model=model(world.sft(size)), reward=[str(world.reward(size))], advantage=advantage,
        inner_epochs=draw.choice((1, 2)), minibatches=draw.choice((1, 2)),
        kl=KLConfig(coefficient=draw.choice((0.08, 0.1, 0.15))),
        train=train(max_steps=20, batch_size=6, learning_rate=_rate(draw, 4e-4)),
        sampling=SamplingConfig(n=4, max_new_tokens=NEW_TOKENS, temperature=draw.choice((1.0, 1.0, 0.8)), slots=64),
    )  # fmt: skip


_MAKERS = {"sft": _sft, "reward": _reward, "dpo": _dpo, "ppo": _ppo}
