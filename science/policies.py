"""Policies of the laws that are trained by reinforcement learning, and the curves of their evaluations."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np

import concordant
from science import proxies, world

PENALTY = 0.1  # reward units a nat, of the compared methods


def reinforced(
    output: Path, seed: int, start: Path, reward: str, kl: float, steps: int, prompts: int = 8, every: int = 4,
    **more: Any,
) -> list[dict[str, float]]:  # fmt: skip
    """A run of PPO's family from ``start``, in ``output``: its evaluations on 96 held-out prompts.

    Four answers to each prompt of a step. The reward is not normalised, and the last weights are exported.
    """
    if not (output / "model").is_dir():
        train = world.train(steps, 2e-4, keep_best=False)
        train.schedule, train.batch_size, train.evaluate_every = "constant", prompts, every
        settings = {"advantage": "rloo", "whiten": "step", "inner_epochs": 1, "reward_normalize": "none"} | more
        concordant.ppo(
            concordant.PPOConfig(
                output=str(output), seed=seed, resume="auto", model=world.model(start), train=train, reward=[reward],
                data=concordant.DataConfig(path="builtin:toytalk"), kl=concordant.KLConfig(coefficient=kl),
                sampling=concordant.SamplingConfig(n=4, max_new_tokens=48, slots=96), **settings,
            )
        )  # fmt: skip
    rows = map(json.loads, (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [
        {"step": row["step"]} | {key[5:]: row[key] for key in row if key.startswith("eval/")}
        for row in rows
        if "eval/gold" in row
    ]


def place(folder: Path, seed: int, advantage: str, kl: float) -> Path:
    """The run folder of a method of PPO's family."""
    return folder / f"{advantage}-{seed}-{kl:g}"


def family(folder: Path, seed: int, advantage: str, kl: float) -> list[dict[str, float]]:
    """A method of PPO's family on the largest reward model with 8,000 pairs: 40 steps of 64 answers."""
    reward, start = proxies.reward_model(folder, seed, "large", 8_000) / "model", world.policy(folder, seed)
    output = place(folder, seed, advantage, kl)
    return reinforced(output, seed, start, str(reward), kl, 40, prompts=16, every=2, advantage=advantage)


def preferring(folder: Path, seed: int, loss: str) -> Path:
    """A policy that learnt from the same 8,000 pairs by a loss of DPO's family: 120 steps of 16 pairs."""
    output = folder / f"{loss}-{seed}"
    if not (output / "model").is_dir():
        data = concordant.DataConfig(path=str(world.pairs(folder, 8_000, 0.0, seed)), max_samples=2_400)
        concordant.dpo(
            concordant.DPOConfig(
                output=str(output), seed=seed, resume="auto", model=world.model(world.policy(folder, seed)), loss=loss,
                beta=0.1, data=data, train=world.train(120, 3e-4, keep_best=False),
            )
        )  # fmt: skip
    return output / "model"


def compared(folder: Path, seed: int, policies: dict[str, Path], name: str) -> dict[str, dict[str, float]]:
    """Gold, the largest reward model's score and the KL from ``sft`` of policies, on the first 96 held-out prompts."""
    output = folder / f"{name}-{seed}"
    if not (output / "report.json").is_file():
        concordant.evaluate(
            concordant.EvaluateConfig(
                policies=[f"{key}={path}" for key, path in policies.items()], output=str(output), seed=seed,
                reward=[str(proxies.reward_model(folder, seed, "large", 8_000) / "model")], max_prompts=96,
                data=concordant.DataConfig(path="builtin:toytalk"), model=world.model(""), bootstrap=100,
                sampling=concordant.SamplingConfig(max_new_tokens=48, slots=96),
            )
        )  # fmt: skip
    found = json.loads((output / "report.json").read_text(encoding="utf-8"))["policies"]
    return {
        key: {"gold": row["gold_mean"], "reward": row["reward_mean"], "kl": row["kl"] or 0.0}
        for key, row in found.items()
    }


def faint_gold(prompt: Any, response: str) -> float:
    """A reward that is always right and varies little."""
    return 0.1 * world.gold(prompt, response)


def wrong_gold(prompt: Any, response: str) -> float:
    """Gold with an error that is the same each time the same text is scored."""
    said = [m["content"] if isinstance(m, dict) else m.content for m in prompt]
    error = np.random.default_rng(zlib.crc32("\n".join([*said, response]).encode())).normal(0, 0.3)
    return world.gold(prompt, response) + float(error)
