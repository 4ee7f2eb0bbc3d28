"""The learning rate at every step."""

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
    """The rate of step ``step`` (from 0) of ``total_steps``.

    The first ``warmup = ceil(warmup_fraction · total_steps)`` steps climb in equal parts, never from 0, and the last of
    them has the full rate; without warm-up step 0 has it. From that step on the schedule falls with the share of the
    steps left, and would reach 0 one step after the last: no step is spent on a rate of 0.
    """
    warmup = math.ceil(config.warmup_fraction * total_steps)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    start = warmup - 1 if warmup else 0  # the step that has the full rate
    progress = (step - start) / (total_steps - start)
    return config.learning_rate * SCHEDULES[config.schedule](progress)
