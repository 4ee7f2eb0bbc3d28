"""What the algorithms hold when several ranks compute together: every verb is an order to all ranks.

What all ranks know, such as the number of a learner's steps, is asked of rank 0 alone. Files are written by an order,
because the weights may be split over the ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from concordant.config.sampling import SamplingConfig
from concordant.core.errors import RunFailed
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
    def __init__(self, team: Team, ref: Ref) -> None:
        super().__init__(team, ref)
        team.learns = True
        self._changes = 0  # how often the weights may have changed
        self._sent = Sent()

    @property
    def version(self) -> int:
        return self.team.look(self.ref, "version")

    def forward_backward(self, trees: Sequence[PromptTree], objective: Objective) -> Future[dict[str, float]]:
        return self.team.call(self.ref, "forward_backward", trees, objective, seed=fresh_seed())

    def hold(self, texts: Sequence[PromptTree], objective: Objective, strength: float) -> None:
        self.team.call(self.ref, "hold", texts, objective, strength).result()

    def discard(self) -> None:
        self.team.call(self.ref, "discard").result()

    def step(self, learning_rate: float) -> Future[StepMetrics]:
        self._changes += 1
        return _Stepped(self.team.call(self.ref, "step", learning_rate), self._sent.taken())

    def reference(self) -> GroupScorer:
        return GroupScorer(self.team, self.team.keep(self.ref, "reference"))

    def set_reference(self, reference: Scorer) -> None:
        if not isinstance(reference, GroupScorer):
            raise TypeError(f"a learner of several processes cannot measure KL from a {type(reference).__name__}")
        if reference.team is not self.team:
            raise ValueError("a learner cannot measure KL from a reference on other ranks")
        self.team.call(self.ref, "set_reference", reference.ref).result()

    def publish(self, adapters: Adapters = "merged") -> GroupWeights:
        return GroupWeights(self.team, Published(self.ref, adapters), self.version, self._changes, self._sent)

    def save(self, folder: Path) -> None:
        self.team.call(self.ref, "save", folder).result()

    def load(self, folder: Path) -> None:
        """Every rank reads ``folder``, so it must be on a disk that all of them see."""
        self._changes += 1
        self.team.call(self.ref, "load", folder).result()

    def keep(self) -> None:
        self.team.call(self.ref, "keep").result()

    def forget(self) -> None:
        self.team.call(self.ref, "forget").result()

    def restore(self) -> None:
        self._changes += 1
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


@dataclass(slots=True)
class Sent:
    """Counts what a learner's weights cost on their way to generators of other teams."""

    bytes: int = 0  # since the last step; a host fetches them once, for all ranks on it

    def taken(self) -> dict[str, float]:
        """The count as a metric, none where nothing was sent; the count starts again at 0."""
        found, self.bytes = self.bytes, 0
        return {"weights_sent": float(found)} if found else {}


@dataclass(frozen=True, slots=True)
class _Stepped:
    """The metrics of a step, with what the weights before this step cost on their way."""

    metrics: Future[StepMetrics]
    sent: Mapping[str, float]

    def result(self) -> StepMetrics:
        metrics = self.metrics.result()
        return replace(metrics, motion={**metrics.motion, **self.sent})


@dataclass(frozen=True, slots=True)
class GroupWeights:
    """A learner's weights. They are on every rank, and only ``tensors`` copies them."""

    team: Team
    published: Published
    version: int
    changes: int  # how often the learner's weights may have changed
    sent: Sent

    def handed_over(self, adapters: Adapters) -> Any:
        """In this form, for an engine of another team."""
        held = self.team.hand_over(Published(self.published.learner, adapters))
        self.sent.bytes += held.bytes
        return held

    @property
    def adapters(self) -> Adapters:
        return self.published.adapters

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        return self.team.call(self.published.learner, "tensors", self.adapters).result()


@dataclass(slots=True)
class Loading:
    """Weights of ``version`` on their way to a generator, or with it."""

    order: Future[None]
    version: int
    has_arrived: bool = False

    def wait(self) -> None:
        """Wait until the weights are with the generator. The order's result is taken once."""
        if not self.has_arrived:
            self.order.result()
            self.has_arrived = True

    def check(self, groups: Sequence[Sequence[Completion]]) -> None:
        if other := {c.version for group in groups for c in group} - {self.version}:
            raise RunFailed(f"the generator has weights of version {min(other)}, not {self.version}")


@dataclass(slots=True)
class Sampling:
    """Completions that are being sampled, after the weights before them have arrived.

    ``before`` is what the same generator was asked for earlier. Its results are taken first: workers that are started
    again do the orders again whose results nobody has yet, and they must do them in their order.
    """

    loading: Loading | None
    completions: Future[list[list[Completion]]]
    before: Sampling | None
    found: list[list[Completion]] | None = None

    def result(self) -> list[list[Completion]]:
        """Wait for weights and completions. RunFailed if a completion was sampled with other weights."""
        if self.before is not None:
            self.before.result()
            self.before = None
        if self.found is None:
            if self.loading is not None:
                self.loading.wait()
            self.found = self.completions.result()
            if self.loading is not None:
                self.loading.check(self.found)
        return self.found


class GroupGenerator:
    def __init__(self, team: Team, ref: Ref) -> None:
        self.team, self.ref = team, ref
        # Of weights that another team sent: whose they are and after which change, and the order to load them.
        self._has: tuple[Ref, int] | None = None
        self._loading: Loading | None = None
        self._last: Sampling | None = None  # what was asked for last
        self._takes: Adapters | None = None  # the form of weights that the engine loads

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
        completions = self.team.call(self.ref, "generate", prompts, sampling, seed)
        self._last = Sampling(self._loading, completions, self._last)
        return self._last

    def load_weights(self, weights: Weights) -> None:
        """Weights of this team's learner are on every rank already; any others are sent to every rank.

        A learner of another team sends them once after each change. They may arrive while the engine still samples
        with the weights before, so nobody waits for them here: see ``Sampling``.
        """
        if not isinstance(weights, GroupWeights):
            self._has = self._loading = None
            self.team.call(self.ref, "load_weights", weights).result()
        elif weights.team is self.team:
            self.team.call(self.ref, "load_weights", weights.published).result()
        elif self._has != (has := (weights.published.learner, weights.changes)):
            self._takes = self._takes or self.team.look(self.ref, "takes")
            order = self.team.call(self.ref, "load_weights", weights.handed_over(self._takes))
            self._has, self._loading = has, Loading(order, weights.version)
