"""Process rewards: a reward for each step of an answer, beside or in place of one for the whole answer.

A reward function returns ``{"steps": [0.5, 1], "ends": [12, 30]}``: the rewards of the answer's steps, and where each
step ends, in characters of the answer. ``"unit": "tokens"`` says that the ends count response tokens, and ``"score"``
is the reward of the whole answer, beside the steps. The score of the answer is the sum of all of them, so everything
that compares answers sees one number, as always. The steps only say on which token a part of this number stands: the
last token of its step.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from concordant.algorithms.rewards import Aggregator, NamedAxes, Scores, WeightedSum
from concordant.core.advantages import Steps
from concordant.core.errors import UserError
from concordant.core.trees import Branch, PromptTree

UNITS = ("characters", "tokens")
TextOf = Callable[[Tensor], str]  # the text of the first tokens of an answer


@dataclass(frozen=True, slots=True)
class Step:
    """One step of an answer."""

    reward: float  # reward units
    end: int  # characters or tokens of the answer up to the step's end


class SteppedScore(float):
    """The score of an answer, which is the sum of its steps' rewards and of the reward of the whole answer."""

    steps: tuple[Step, ...]
    unit: str  # one of UNITS

    @classmethod
    def of(cls, steps: Sequence[Step], unit: str = "characters", outcome: float = 0.0) -> SteppedScore:
        made = cls(outcome + sum(step.reward for step in steps))
        made.steps, made.unit = tuple(steps), unit
        return made


def read_steps(value: Mapping[str, Any], response: str, number: Callable[[Any], float | None]) -> SteppedScore | str:
    """The score that a function returned as a mapping with ``steps``, or in words what is wrong with the mapping.

    ``number`` reads a finite number, and gives None for anything else.
    """
    unknown = value.keys() - {"steps", "ends", "unit", "score"}
    unit, outcome = value.get("unit", "characters"), number(value.get("score", 0.0))
    listed, listed_ends = value["steps"], value.get("ends")
    are_lists = isinstance(listed, list | tuple) and isinstance(listed_ends, list | tuple)
    if unknown or unit not in UNITS or outcome is None or not are_lists:
        return "expected steps and ends, two lists; unit may be characters or tokens, and score a number"
    rewards, ends = [number(x) for x in listed], list(listed_ends or ())
    if len(rewards) != len(ends) or any(x is None for x in rewards):
        return "expected a finite number for each step, and as many ends as steps"
    whole = all(isinstance(end, int) and not isinstance(end, bool) for end in ends)
    if not whole or any(b <= a for a, b in zip([0, *ends], ends, strict=False)):
        return "expected ends that are whole numbers above 0 and rise from step to step"
    if unit == "characters" and ends and ends[-1] > len(response):
        return f"the last step ends at character {ends[-1]} of an answer of {len(response)}"
    return SteppedScore.of([Step(r, end) for r, end in zip(rewards, ends, strict=True) if r is not None], unit, outcome)


def process_steps(
    scores: Scores, aggregate: Aggregator, trees: Sequence[PromptTree], text_of: TextOf, scale: float
) -> Steps | None:
    """The steps of all answers, in shaped reward units and on their tokens; None if no axis gave steps.

    ``scale``: raw reward units in one shaped one. Raises UserError if an axis that has steps is not simply weighted, or
    a step ends behind its answer's last token.
    """
    stepped = [name for name, column in scores.given.items() if any(isinstance(x, SteppedScore) for x in column)]
    if not stepped:
        return None
    weights = _weights(aggregate)
    if lost := [name for name in stepped if name not in weights]:
        raise UserError(
            f"reward {lost[0]} gives rewards for steps, which need a weighted sum of rewards; leave it out of the "
            "ensemble, or return one number for each answer"
        )
    rewards, tokens, start = [], [], 0
    branches = [branch for tree in trees for branch in tree.branches]
    for b, branch in enumerate(branches):
        for name in stepped:
            score = scores.given[name][b]
            if isinstance(score, SteppedScore):
                for step in score.steps:
                    rewards.append(weights[name] * step.reward / scale)
                    tokens.append(start + _token(step.end, score.unit, branch, text_of, name))
        start += branch.response_length
    return Steps(torch.tensor(rewards), torch.tensor(tokens, dtype=torch.int64))


def _weights(aggregate: Aggregator) -> dict[str, float]:
    """What each axis counts in the total, of the axes that are weighted and summed."""
    if isinstance(aggregate, WeightedSum):
        return dict(aggregate.weights)
    if isinstance(aggregate, NamedAxes):
        return {own[0]: aggregate.weights[name] for name, own in aggregate.members.items() if len(own) == 1}
    return {}


def _token(end: int, unit: str, branch: Branch, text_of: TextOf, name: str) -> int:
    """The number, among its answer's response tokens, of the last token of a step.

    It is the first token with which the text of the answer reaches the step's end.
    """
    if unit == "tokens":
        if end > branch.response_length:
            raise UserError(
                f"reward {name}: a step ends at token {end} of an answer of {branch.response_length} tokens"
            )
        return end - 1
    if not branch.is_response_T.all():
        raise UserError(
            f"reward {name}: in an answer of several turns a step ends at a token; give unit tokens, and ends that "
            "count the policy's tokens"
        )
    ids_T = branch.ids_T
    place = bisect.bisect_left(range(1, len(ids_T)), end, key=lambda count: len(text_of(ids_T[:count])))
    return max(0, int(branch.is_response_T[: place + 1].sum()) - 1)
