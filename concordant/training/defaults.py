"""Settings of a training run that follow the method, the model and the data where the user gives none.

A set of 300 pairs needs more passes than a set of 300,000, and a model of a million weights takes a hundred times the
rate of a model of seven billion. The rules below are fitted by eye to published recipes and to this project's own runs:
full fine-tuning of 7 B models at 1e-5 (SFT, reward model) and at 5e-7 to 1e-6 (DPO, PPO: Tunstall et al. 2023,
2310.16944; Ouyang et al. 2022, 2203.02155); adapters at ten times these rates (Schulman et al. 2025, "LoRA without
regret"); ``builtin:tiny`` and ``builtin:small`` as in the demo and in examples/hh_rlhf.yaml.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from concordant.config.names import Method, OptimizerName
from concordant.config.train import TrainConfig

# The rate of a model of a million weights, and how fast the rate falls: rate · (weights / 1e6) ^ -power.
RATES: dict[Method, tuple[float, float]] = {
    "sft": (1e-3, 0.5),
    "reward": (1e-3, 0.5),
    "dpo": (2e-4, 0.65),
    "ppo": (3e-4, 0.65),
    "distill": (1e-3, 0.5),
}
ADAPTER, SCRATCH, ENCODER = 10.0, 3.0, 0.3  # factors of the rate: LoRA, random weights, an encoder under a reward head
HIGHEST_RATE = 5e-3
# Factors of the rate. Adafactor's is relative to the size of the weights, which is about a tenth or less.
OPTIMIZERS: dict[OptimizerName, float] = {"adamw": 1.0, "muon": 1.0, "adafactor": 10.0}

# Steps that are usually enough.
STEPS: dict[Method, int] = {"sft": 200, "reward": 150, "dpo": 100, "ppo": 100, "distill": 200}
SCRATCH_STEPS = 600  # of a model that has to learn its language first
# At most: more passes over given answers learn by heart.
PASSES: dict[Method, int] = {"sft": 5, "reward": 5, "dpo": 3, "ppo": 100, "distill": 100}
SAMPLES: frozenset[Method] = frozenset({"ppo", "distill"})  # prompts are answered anew in every step
SCRATCH_PASSES = 30

BATCH, LEAST_BATCH = 32, 4
BATCHES_A_PASS = 20  # a small set is divided into about so many batches, so that a pass is more than a few steps
EVALUATIONS = 8  # of a run, so that the best weights can be kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What a run starts from."""

    method: Method
    examples: int  # of one pass: trees, or prompts that are answered
    weights: int  # numbers in the model
    has_adapters: bool = False  # LoRA: only the adapters are trained
    is_random: bool = False  # a model made from scratch
    is_encoder: bool = False
    optimizer: OptimizerName = "adamw"


def settle(train: TrainConfig, start: Start) -> TrainConfig:
    """``train`` with every setting that follows something put to its number.

    What the user gave stays, but for a batch of given examples that is larger than the data.
    """
    batch = at_most_all(train.batch_size, start) or batch_of(start)
    epochs = train.epochs or passes_of(start, batch)
    steps = train.max_steps or max(1, math.ceil(start.examples * epochs / batch))
    every = max(1, steps // EVALUATIONS) if train.evaluate_every < 0 else train.evaluate_every
    return replace(
        train,
        batch_size=batch,
        epochs=epochs,
        learning_rate=train.learning_rate or rate_of(start),
        evaluate_every=every,
    )


def at_most_all(given: int, start: Start) -> int:
    """The batch size that the user gave, but no more than the examples.

    A step that holds an example 29 times costs 29 times as much and learns nothing more. The prompts of a method that
    samples may come again within a step, because each time they are answered anew.
    """
    return given if start.method in SAMPLES else min(given, start.examples)


def rate_of(start: Start) -> float:
    """Two digits are enough for a rule of thumb."""
    base, power = RATES[start.method]
    rate = base * (start.weights / 1e6) ** -power
    for applies, factor in (
        (start.has_adapters, ADAPTER),
        (start.is_random, SCRATCH),
        (start.is_encoder, ENCODER),
    ):
        rate *= factor if applies else 1.0
    return float(f"{min(rate, HIGHEST_RATE) * OPTIMIZERS[start.optimizer]:.1e}")


def batch_of(start: Start) -> int:
    """A power of two, so that a small set's pass has about ``BATCHES_A_PASS`` steps; where steps sample, 32."""
    if start.method in SAMPLES:
        return min(BATCH, start.examples)
    fitting = 2 ** int(math.log2(max(1, start.examples / BATCHES_A_PASS)))
    return min(start.examples, max(LEAST_BATCH, min(BATCH, fitting)))


def steps_needed(start: Start) -> int:
    return SCRATCH_STEPS if start.is_random else STEPS[start.method]


def passes_of(start: Start, batch: int) -> float:
    """Whole passes that give the steps which are usually enough, but no more than ``PASSES``."""
    most = SCRATCH_PASSES if start.is_random else PASSES[start.method]
    return float(min(most, max(1, math.ceil(steps_needed(start) * batch / start.examples))))
