"""The interface between objectives and engines: the numbers an objective wants, gets and returns.

An objective returns named terms, and each term is a sum. The engine divides each term once by the term's weight over
all micro-batches and ranks. So micro-batch size, packing and world size cannot change a gradient.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch import Tensor

from concordant.core.divergence import Divergence
from concordant.core.transfer import to_device
from concordant.core.trees import TreeBatch


@dataclass(frozen=True, slots=True)
class Outputs:
    """The numbers that a forward pass is to compute. It computes no others."""

    logprob: bool = False  # of every response token
    top: bool = False  # whether the response token is the most likely one
    entropy: bool = False  # of the whole next-token distribution at every response token
    kl: bool = False  # exact KL of the next-token distribution from the learner's reference
    value: bool = False  # the critic's estimate before every response token
    score: bool = False  # the reward model's number at every branch's last token: the mean over its heads
    heads: bool = False  # the number of each head of a reward model there
    divergence: Divergence | None = None  # exact, of that distribution from the one of the learner's reference

    @property
    def compares(self) -> bool:
        """Whether the pass reads the learner's reference too."""
        return self.kl or self.divergence is not None


@dataclass(slots=True)
class BranchOutputs:
    """The computed numbers. A field is None if it was not wanted."""

    logprob_N: Tensor | None = None  # nats, temperature applied
    top_N: Tensor | None = None  # 1.0 or 0.0
    entropy_N: Tensor | None = None  # nats
    kl_N: Tensor | None = None  # nats
    divergence_N: Tensor | None = None  # nats
    value_N: Tensor | None = None  # reward units
    score_B: Tensor | None = None  # reward units, raw
    head_BK: Tensor | None = None  # the same for each of the K heads


@dataclass(frozen=True, slots=True)
class Term:
    """One term of a loss. The engine minimises Σ coefficient · sum / (sum of the weights of all micro-batches)."""

    sum: Tensor  # scalar
    coefficient: float = 1.0


@dataclass(slots=True)
class Metric:
    """A detached number of a micro-batch. ``reduce`` says how the numbers of all micro-batches become one."""

    sum: Tensor
    weight: float | Tensor = 1.0
    reduce: Literal["mean", "sum", "max"] = "mean"  # mean: Σ sum / Σ weight


@dataclass(slots=True)
class Evaluated:
    """The terms and metrics that an objective returns for one micro-batch."""

    terms: dict[str, Term]
    metrics: dict[str, Metric] = field(default_factory=dict)


class Objective(Protocol):
    """A loss, as a dataclass that can be pickled.

    The fields of an objective hold numbers for every token or branch of the whole batch, in the order of the caller's
    trees. ``batch.token_N`` and ``batch.caller_B`` say which of these numbers belong to a micro-batch. The engine calls
    ``weights`` with a batch on the CPU. Before it calls the objective, it moves the fields to the device of the batch.
    """

    @property
    def want(self) -> Outputs: ...

    def weights(self, batch: TreeBatch) -> dict[str, float]:
        """What this micro-batch adds to the denominator of each term. It is known before any forward pass."""
        ...

    def __call__(self, out: BranchOutputs, batch: TreeBatch) -> Evaluated: ...


@dataclass(frozen=True, slots=True)
class Scaled:
    """An objective that is added to another one with ``coefficient``, e.g. a pretraining mix or a replay.

    It keeps its own denominators. The names of its terms and metrics begin with ``prefix``.
    """

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


T = TypeVar("T")


def placed(objective: T, device: torch.device) -> T:
    """``objective`` with its tensors on ``device``, and those of an objective inside it.

    The copy is made once for all micro-batches, so that no micro-batch waits for one.
    """
    if not is_dataclass(objective) or isinstance(objective, type):
        return objective
    moved: dict[str, Any] = {}
    for f in fields(objective):
        value = getattr(objective, f.name)
        new = to_device(value, device) if isinstance(value, Tensor) else placed(value, device)
        if f.init and new is not value:
            moved[f.name] = new
    return replace(objective, **moved) if moved else objective
