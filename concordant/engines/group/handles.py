"""What the algorithms hold when several ranks compute together: every verb is an order to all ranks.

What all ranks know, such as the number of a learner's steps, is asked of rank 0 alone. Files are written by an order,
because the weights may be split over the ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from concordant.config.sampling import SamplingConfig
from concordant.core.objective import BranchOutputs, Objective, Outputs
from concordant.core.seeding import fresh_seed
from concordant.core.trees import PromptTree
from concordant.engines.group.orders import Published, Ref
from concordant.engines.group.team import Team
from concordant.engines.protocol import (
    Adapters,
    Completion,
    Description,
    Future,
    MemoryUse,
    Reached,
    Scorer,
    StepMetrics,
    Weights,
)


class GroupScorer:
    def __init__(self, team: Team, ref: Ref) -> None:
        self.team, self.ref = team, ref

    def forward(self, trees: Sequence[PromptTree], want: Outputs) -> Future[BranchOutputs]:
        return self.team.call(self.ref, "forward", trees, want)

    def evaluate(self, trees: Sequence[PromptTree], objective: Objective) -> Future[dict[str, float]]:
        return self.team.call(self.ref, "evaluate", trees, objective)

    def describe(self) -> Description:
        return self.team.look(self.ref, "describe")


class GroupLearner(GroupScorer):
    @property
    def version(self) -> int:
        return self.team.look(self.ref, "version")

    def forward_backward(self, trees: Sequence[PromptTree], objective: Objective) -> Future[dict[str, float]]:
        return self.team.call(self.ref, "forward_backward", trees, objective, seed=fresh_seed())

    def discard(self) -> None:
        self.team.call(self.ref, "discard").result()

    def step(self, learning_rate: float) -> Future[StepMetrics]:
        return self.team.call(self.ref, "step", learning_rate)

    def reference(self) -> GroupScorer:
        return GroupScorer(self.team, self.team.keep(self.ref, "reference"))

    def set_reference(self, reference: Scorer) -> None:
        if not isinstance(reference, GroupScorer):
            raise TypeError(f"a learner of several processes cannot measure KL from a {type(reference).__name__}")
        self.team.call(self.ref, "set_reference", reference.ref).result()

    def publish(self, adapters: Adapters = "merged") -> GroupWeights:
        return GroupWeights(self.team, Published(self.ref, adapters), self.version)

    def save(self, folder: Path) -> None:
        self.team.call(self.ref, "save", folder).result()

    def load(self, folder: Path) -> None:
        """Every rank reads ``folder``, so it must be on a disk that all of them see."""
        self.team.call(self.ref, "load", folder).result()

    def keep(self) -> None:
        self.team.call(self.ref, "keep").result()

    def forget(self) -> None:
        self.team.call(self.ref, "forget").result()

    def restore(self) -> None:
        self.team.call(self.ref, "restore").result()

    def checkpoint_bytes(self, with_kept: bool) -> int:
        return self.team.look(self.ref, "checkpoint_bytes", with_kept)

    def export_bytes(self) -> int:
        return self.team.look(self.ref, "export_bytes")

    def export(self, folder: Path, card: Mapping[str, Any] | None = None) -> None:
        self.team.call(self.ref, "export", folder, card).result()

    @property
    def adapter_base(self) -> str:
        return self.team.look(self.ref, "adapter_base")

    def export_adapter(self, folder: Path, card: Mapping[str, Any] | None = None) -> None:
        self.team.call(self.ref, "export_adapter", folder, card).result()

    @contextmanager
    def rehearsal(self) -> Iterator[None]:
        self.team.enter(self.ref, "rehearsal")
        try:
            yield
        finally:
            self.team.leave()

    def reached(self) -> list[Reached]:
        return self.team.call(self.ref, "reached").result()

    def memory(self) -> MemoryUse:
        return self.team.look(self.ref, "memory")


@dataclass(frozen=True, slots=True)
class GroupWeights:
    """A learner's weights. They are on every rank, and only ``tensors`` copies them."""

    team: Team
    published: Published
    version: int

    @property
    def adapters(self) -> Adapters:
        return self.published.adapters

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        return self.team.call(self.published.learner, "tensors", self.adapters).result()


class GroupGenerator:
    def __init__(self, team: Team, ref: Ref) -> None:
        self.team, self.ref = team, ref

    @property
    def version(self) -> int:
        return self.team.look(self.ref, "version")

    def generate(
        self,
        prompts: Sequence[Tensor],
        sampling: SamplingConfig,
        seed: int,
        on_token: Callable[[int, int, int], None] | None = None,
    ) -> Future[list[list[Completion]]]:
        """As in the protocol. With ``on_token``, one rank samples all answers, so that every token is heard at once."""
        if on_token is not None:
            self.team.enter(self.ref, "whole")
            try:
                return self.team.look(self.ref, "generate", prompts, sampling, seed, on_token)
            finally:
                self.team.leave()
        return self.team.call(self.ref, "generate", prompts, sampling, seed)

    def load_weights(self, weights: Weights) -> None:
        """Weights of this team's learner are on every rank already; any others are sent to every rank."""
        sent = weights.published if isinstance(weights, GroupWeights) else weights
        self.team.call(self.ref, "load_weights", sent).result()
