"""What an objective asks of a forward pass, what it gets, and what it gives back.

An objective returns named terms, each a sum; the engine divides each once by its weight over all
micro-batches (and ranks), so micro-batch size, packing and world size cannot change a gradient.

N response tokens, B branches.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

from torch import Tensor

from concordant.core.trees import TreeBatch


@dataclass(frozen=True, slots=True)
class Outputs:
    """Which numbers a forward pass computes; nothing else is computed."""

    logprob: bool = False  # of every response token
    top: bool = False  # whether the response token was the most likely one
    entropy: bool = False  # of the whole next-token distribution at every response token
    kl: bool = False  # exact KL of the next-token distribution from the learner's reference
    value: bool = False  # critic's estimate before every response token
    score: bool = False  # reward head on every branch's last token


@dataclass(slots=True)
class BranchOutputs:
    """A field is None when it was not wanted."""

    logprob_N: Tensor | None = None  # nats, temperature applied
    top_N: Tensor | None = None  # 1.0 or 0.0
    entropy_N: Tensor | None = None  # nats
    kl_N: Tensor | None = None  # nats
    value_N: Tensor | None = None  # reward units
    score_B: Tensor | None = None  # reward units, raw


@dataclass(frozen=True, slots=True)
class Term:
    """Part of a loss: the engine minimises Σ coefficient · sum / (sum of the weights of all micro-batches)."""

    sum: Tensor  # scalar
    coefficient: float = 1.0


@dataclass(slots=True)
class Metric:
    """A detached mean (sum / weight over all micro-batches), or the greatest value seen."""

    sum: Tensor
    weight: float | Tensor = 1.0
    reduce: Literal["mean", "sum", "max"] = "mean"  # over micro-batches


@dataclass(slots=True)
class Evaluated:
    """What an objective gives for one micro-batch."""

    terms: dict[str, Term]
    metrics: dict[str, Metric] = field(default_factory=dict)


class Objective(Protocol):
    """A picklable dataclass. Per-token numbers of the whole batch travel in its fields in the order of the
    caller's trees; ``batch.token_N`` and ``batch.caller_B`` say which of them a micro-batch holds."""

    @property
    def want(self) -> Outputs: ...

    def weights(self, batch: TreeBatch) -> dict[str, float]:
        """The denominator each term of this micro-batch adds, known before any forward pass."""
        ...

    def __call__(self, out: BranchOutputs, batch: TreeBatch) -> Evaluated: ...


@dataclass(frozen=True, slots=True)
class Scaled:
    """An objective that counts ``coefficient`` times beside another: a pretraining mix, a replay. It keeps its own
    denominators; its terms and metrics are named with ``prefix``."""

    objective: Objective
    coefficient: float
    prefix: str

    @property
    def want(self) -> Outputs:
        return self.objective.want

    def weights(self, batch: TreeBatch) -> dict[str, float]:
        return {f"{self.prefix}{name}": weight for name, weight in self.objective.weights(batch).items()}

    def __call__(self, out: BranchOutputs, batch: TreeBatch) -> Evaluated:
        made = self.objective(out, batch)
        return Evaluated(
            {f"{self.prefix}{n}": Term(t.sum, self.coefficient * t.coefficient) for n, t in made.terms.items()},
            {f"{self.prefix}{name}": metric for name, metric in made.metrics.items()},
        )
