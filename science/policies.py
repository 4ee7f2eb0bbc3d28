"""Policies of the laws that are trained by reinforcement learning, and the curves of their evaluations."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np

import concordant
from science import world


def reinforced(
    output: Path, seed: int, start: Path, reward: str, kl: float, steps: int, rate: float = 3e-4, **more: Any
) -> list[dict[str, float]]:
    """A run of PPO's family from ``start``, in ``output``: its evaluations on 96 held-out prompts, one every 4 steps.

    8 prompts and 32 answers a step. The reward is not normalised, and the last weights are exported.
    """
    if not (output / "model").is_dir():
        train = world.train(steps, rate, keep_best=False)
        train.schedule, train.batch_size, train.evaluate_every = "constant", 8, 4
        settings = {"advantage": "rloo", "whiten": "step", "inner_epochs": 1, "reward_normalize": "none"} | more
        concordant.ppo(
            concordant.PPOConfig(
                output=str(output), seed=seed, resume="auto", model=world.model(start), train=train, reward=[reward],
                data=concordant.DataConfig(path="builtin:toytalk"), kl=concordant.KLConfig(coefficient=kl),
                sampling=concordant.SamplingConfig(n=4, max_new_tokens=48, slots=96), **settings,
            )
        )  # fmt: skip
    return evaluations(output)


def evaluations(run: Path) -> list[dict[str, float]]:
    """The rows of a run that hold an evaluation of its policy, without the prefix of their names."""
    rows = map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [
        {"step": row["step"]} | {k[5:]: row[k] for k in ("eval/gold", "eval/kl", "eval/reward", "eval/length")}
        for row in rows
        if "eval/gold" in row
    ]


def faint_gold(prompt: Any, response: str) -> float:
    """A reward that is always right and varies little."""
    return 0.1 * world.gold(prompt, response)


def wrong_gold(prompt: Any, response: str) -> float:
    """Gold with an error that is the same each time the same text is scored."""
    said = [m["content"] if isinstance(m, dict) else m.content for m in prompt]
    error = np.random.default_rng(zlib.crc32("\n".join([*said, response]).encode())).normal(0, 0.3)
    return world.gold(prompt, response) + float(error)
