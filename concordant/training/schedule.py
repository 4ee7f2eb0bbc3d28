"""Computes the learning rate of every step."""

from __future__ import annotations

import math
from collections.abc import Callable

from concordant.config.names import Schedule
from concordant.config.train import TrainConfig

SCHEDULES: dict[Schedule, Callable[[float], float]] = {
    "linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: 0.5 * (1.0 + math.cos(math.pi * progress)),
    "constant": lambda progress: 1.0,
}


def learning_rate(config: TrainConfig, step: int, total_steps: int) -> float:
    """The learning rate of step ``step``, counted from 0, of ``total_steps``.

    In the first ``warmup`` steps, ``warmup_steps`` or else ``ceil(warmup_fraction · total_steps)``, the rate rises in
    equal parts. Step 0 already has one part, and the last warm-up step has the full rate. Without warm-up, step 0 has
    the full rate. Then the rate falls with the share of steps left, to ``min_rate_fraction`` of the full rate. It would
    reach this end one step after the last step, so that no step has a rate of 0.
    """
    warmup = config.warmup_steps or math.ceil(config.warmup_fraction * total_steps)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    start = warmup - 1 if warmup else 0  # the step with the full rate
    progress = (step - start) / (total_steps - start)
    least = config.min_rate_fraction
    return config.learning_rate * (least + (1.0 - least) * SCHEDULES[config.schedule](progress))
