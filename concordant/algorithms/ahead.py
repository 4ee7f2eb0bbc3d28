"""Sampling ahead: workers that only sample answer the prompts of later steps while the policy learns the present step.

The answers of step t + lag are sampled with the weights from which step t starts, so that no answer is more than
``lag`` steps old. Their tokens count min(π/μ, cap) times, where π is the policy before the updates of the step that
learns from them, and μ is the policy that sampled (truncated importance weights; asynchronous RLHF, Noukhovitch et al.
2024, 2410.18252). The order of all calls is fixed, so the same seed gives the same bits, whoever is faster.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from concordant.algorithms.rollouts import Groups, Rollouts, Started
from concordant.engines.protocol import Completion
from concordant.training.progress import current


class Ahead:
    """``start`` starts to sample the answers of a step with the present weights; the last step is ``steps`` - 1.

    ``restart`` makes what ``start`` returned from the completions of a step.
    """

    def __init__(
        self, start: Callable[[int], Started], restart: Callable[[int, Groups], Started], lag: int, steps: int
    ) -> None:
        self.start, self.restart, self.lag, self.steps = start, restart, lag, steps
        self.started: dict[int, Started] = {}  # by step

    def rollouts(self, step: int) -> Rollouts:
        """Wait for the answers of ``step``, and start to sample those of the ``lag`` steps after it."""
        self._ensure(step)
        found = self.started.pop(step).result()
        for later in range(step + 1, min(step + self.lag + 1, self.steps)):
            self._ensure(later)
        return found

    def _ensure(self, step: int) -> None:
        if step not in self.started:
            self.started[step] = self.start(step)

    # -- state ----------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Wait for all answers. By step, plain values that JSON can hold."""
        return {
            str(step): [
                {"prompt": prompt_T.tolist(), "completions": _plain(group)}
                for prompt_T, group in zip(started.prompt_ids, started.groups.result(), strict=True)
            ]
            for step, started in self.started.items()
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on with the answers in ``state``. If a step has other prompts or another number of answers now, the
        step's answers are sampled again.
        """
        self.started = {}
        for step, groups in state.items():
            started = self.restart(int(step), [_completions(group["completions"]) for group in groups])
            same_prompts = [ids_T.tolist() for ids_T in started.prompt_ids] == [group["prompt"] for group in groups]
            same_number = all(len(group["completions"]) == started.sampling.n for group in groups)
            if self.lag and same_prompts and same_number:
                self.started[int(step)] = started
            else:
                current().message(f"step {step}: other settings or prompts; the answers are sampled again")


def _plain(group: Sequence[Completion]) -> list[dict[str, Any]]:
    return [
        {"ids": c.ids_T.tolist(), "logprobs": c.logprob_T.tolist(), "finish": c.finish_reason, "version": c.version}
        for c in group
    ]


def _completions(group: Sequence[Mapping[str, Any]]) -> list[Completion]:
    return [
        Completion(
            ids_T=torch.tensor(c["ids"], dtype=torch.int64),
            logprob_T=torch.tensor(c["logprobs"], dtype=torch.float32),
            finish_reason=c["finish"],
            version=c["version"],
        )
        for c in group
    ]
