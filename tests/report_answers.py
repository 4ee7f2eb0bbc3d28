"""A small evaluation that every test can bend."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from concordant.data.records import Message
from concordant.evaluation.records import PolicyAnswers, TextLosses

Answers = Callable[..., PolicyAnswers]


@pytest.fixture(scope="session")
def answers() -> Answers:
    """``answers("sft", gold=[…], rewards=[…])``: as many prompts as there are scores."""

    def build(
        name: str,
        *,
        gold: Sequence[float] | None = None,
        rewards: Sequence[float] | None = None,
        judge: Sequence[float] | None = None,
        responses: Sequence[str] | None = None,
        prompts: Sequence[tuple[Message, ...]] | None = None,
        kl: Sequence[float] | None = None,
        kl_bound: float | None = None,
        texts: TextLosses | None = None,
        run: str = "",
    ) -> PolicyAnswers:
        count = len(gold or rewards or judge or responses or [])
        return PolicyAnswers(
            name=name,
            run=run,
            prompts=prompts or [(Message("user", f"question {i}"),) for i in range(count)],
            responses=responses or [f"answer {i}" for i in range(count)],
            lengths=[i + 1 for i in range(count)],
            ended=[i % 4 != 0 for i in range(count)],
            rewards=rewards,
            gold=gold,
            judge=judge,
            kl=kl,
            kl_bound=kl_bound,
            texts=texts,
        )

    return build
