"""A policy of ours as a writer: the same question gets the same answer, whatever other questions it stands beside."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from concordant.algorithms.rollouts import Sampler
from concordant.config.sampling import SamplingConfig
from concordant.core.seeding import derive
from concordant.data.dialogue import Messages
from concordant.data.records import Prompt
from concordant.feedback.writers import Answered, Reply, Skip

AT_ONCE = 64  # questions answered together; a kill loses no more


class LocalWriter:
    """``model`` identifies the policy's files, so that the cache of other weights is never used."""

    stopped = ""

    def __init__(self, sampler: Sampler, sampling: SamplingConfig, seed: int, model: Any) -> None:
        self.sampler, self.sampling, self.model = sampler, sampling, model
        self.seed = derive(seed, "feedback/writer") if sampling.temperature else 0  # nothing is drawn at 0
        settings = {name: value for name, value in asdict(sampling).items() if name != "slots"}
        self.identity = json.dumps(["model", model, settings, self.seed], sort_keys=True)

    def greedy(self, max_new_tokens: int) -> LocalWriter:
        """The same policy with its most likely tokens."""
        return LocalWriter(self.sampler, SamplingConfig(temperature=0.0, max_new_tokens=max_new_tokens), 0, self.model)

    def write(self, questions: Sequence[Messages]) -> Iterator[tuple[int, Answered]]:
        reasons = self.sampler.encoder.refusals([(question, None) for question in questions])
        for number, why in enumerate(reasons):
            if why is not None:
                yield number, Skip("the chat template refuses the question", why)
        numbers = [number for number, why in enumerate(reasons) if why is None]
        for start in range(0, len(numbers), AT_ONCE):
            part = numbers[start : start + AT_ONCE]
            rollouts = self.sampler([Prompt(questions[number]) for number in part], self.sampling, self.seed)
            for number, answer, length in zip(part, rollouts.answers, rollouts.length_B.tolist(), strict=True):
                yield number, Reply(answer.response, 0, length)
