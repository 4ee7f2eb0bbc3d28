"""All exercises, in the order of the seed's phases."""

from __future__ import annotations

from concordant.core.errors import UserError
from concordant.course.adapters import LORA
from concordant.course.exercise import Exercise
from concordant.course.policies import GAE, PPO
from concordant.course.preferences import DPO, LOGPROBS
from concordant.course.rewards import HEAD, LOSS

EXERCISES: dict[int, Exercise] = {e.number: e for e in (LORA, HEAD, LOSS, LOGPROBS, DPO, GAE, PPO)}


def exercise_of(number: int) -> Exercise:
    if number not in EXERCISES:
        raise UserError(f"there is no exercise {number}; the exercises are 1 to {max(EXERCISES)}")
    return EXERCISES[number]
