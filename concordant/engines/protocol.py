"""What algorithms hold: scorers, learners and generators. An algorithm never knows where their tensors live.

Every call that takes time returns a ``Future``. An engine of this process does the work within the call; an engine on
other machines returns at once. A caller who needs several numbers starts all calls before it waits for the first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar

import torch
from torch import Tensor

from concordant.config.sampling import SamplingConfig
from concordant.core.objective import BranchOutputs, Objective, Outputs
from concordant.core.trees import Layout, PromptTree

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

Adapters = Literal["merged", "apart"]


class Future(Protocol[T_co]):
    """A result that is there, or is being computed."""

    def result(self) -> T_co:
        """Wait for the result. Raises what the computation raised."""
        ...


@dataclass(frozen=True, slots=True)
class Done(Generic[T]):
    """A future whose work was done when it was made."""

    value: T

    def result(self) -> T:
        return self.value


# -- scorers --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What may be known of a scorer from outside."""

    precision: torch.dtype  # of matrix products
    layout: Layout  # how trees are laid into rows
    micro_batch_tokens: int  # of a pass with gradient, now
    weights: int  # numbers in the model
    trained: int  # numbers that the optimizer moves; 0 for a scorer


class Scorer(Protocol):
    """Something with weights that reads trees: a policy, a reference, a critic or a reward model."""

    def forward(self, trees: Sequence[PromptTree], want: Outputs) -> Future[BranchOutputs]:
        """Numbers without gradient, on the CPU, in the order of ``trees``, their branches and response tokens."""
        ...

    def evaluate(self, trees: Sequence[PromptTree], objective: Objective) -> Future[dict[str, float]]:
        """The loss, its terms and the metrics of ``objective``, all means, without a gradient."""
        ...

    def describe(self) -> Description: ...


# -- learners -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StepMetrics:
    grad_norm: float  # before clipping
    skipped: bool  # True when loss or gradient was not finite and the weights were left alone
    motion: Mapping[str, float] = field(default_factory=dict)  # "update/…": how far the weights moved; empty if skipped


@dataclass(frozen=True, slots=True)
class Reached:
    """What the gradient did to one tensor."""

    name: str
    is_trained: bool  # the optimizer moves it
    came: bool  # a gradient arrived
    is_zero: bool = False  # everywhere
    is_finite: bool = True  # everywhere


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Of the process or device that holds the weights, in bytes."""

    peak: int  # the most that was in use
    total: int  # what may be used


class Weights(Protocol):
    """A learner's weights after ``version`` optimizer steps, for a generator or another tool."""

    @property
    def version(self) -> int: ...

    @property
    def adapters(self) -> Adapters: ...

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """By plain Hugging Face names. ``merged``: the whole model with its adapters in its weights. ``apart``: only
        the adapter, by PEFT's names; the base that it belongs to does not change."""
        ...


class Role(Protocol):
    """What has a state of its own through a run, and looks after it: a driver passes folders and numbers alone."""

    def save(self, folder: Path) -> None:
        """Write all that the next step depends on into ``folder``, which is empty. OSError when the disk is full."""
        ...

    def load(self, folder: Path) -> None:
        """Be as ``save`` found it."""
        ...

    def keep(self) -> None:
        """Remember the trained weights as they are now, in place of those remembered before."""
        ...

    def forget(self) -> None:
        """Remember none."""
        ...

    def restore(self) -> None:
        """Put the weights back that were remembered. They stay part of what ``save`` writes until forgotten."""
        ...

    def checkpoint_bytes(self, with_kept: bool) -> int:
        """About how much ``save`` writes; ``with_kept``: while weights are remembered."""
        ...

    def export_bytes(self) -> int:
        """About how much ``export`` writes."""
        ...


class Learner(Scorer, Role, Protocol):
    """A scorer with an optimizer."""

    @property
    def version(self) -> int:
        """Optimizer steps taken."""
        ...

    def forward_backward(self, trees: Sequence[PromptTree], objective: Objective) -> Future[dict[str, float]]:
        """Add the objective's gradient over ``trees``; the same numbers as ``evaluate``."""
        ...

    def discard(self) -> None:
        """Forget the gradient."""
        ...

    def step(self, learning_rate: float) -> Future[StepMetrics]:
        """Clip, update, forget the gradient."""
        ...

    def reference(self) -> Scorer:
        """A frozen scorer: the weights as they were when this was first called, or what stands in for them. With LoRA
        it shares the backbone."""
        ...

    def set_reference(self, reference: Scorer) -> None:
        """Measure ``Outputs.kl`` from ``reference``, a scorer of the same engine."""
        ...

    def publish(self, adapters: Adapters = "merged") -> Weights:
        """The weights as they are now, for ``Generator.load_weights``. They are to be read before the next step."""
        ...

    def export(self, folder: Path, card: Mapping[str, Any] | None = None) -> None:
        """Write the model in plain Hugging Face layout."""
        ...

    # For whoever looks before the first step.

    def rehearsal(self) -> AbstractContextManager[None]:
        """What happens within leaves no trace: no gradient, no draw of random numbers, no smaller micro-batches."""
        ...

    def reached(self) -> list[Reached]:
        """Where the gradient gathered so far has arrived, a row for every tensor of the model."""
        ...

    def memory(self) -> MemoryUse: ...


# -- generators -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled response, in token ids."""

    ids_T: Tensor  # int64, the end-of-turn/EOS token included when it was sampled
    logprob_T: Tensor  # nats under the policy that sampled, temperature applied
    finish_reason: Literal["stop", "length"]  # "stop": an end token was sampled
    version: int  # policy version (optimizer steps taken) that sampled it


class Generator(Protocol):
    @property
    def version(self) -> int: ...

    def generate(
        self,
        prompts: Sequence[Tensor],
        sampling: SamplingConfig,
        seed: int,
        on_token: Callable[[int, int, int], None] | None = None,
    ) -> Future[list[list[Completion]]]:
        """``sampling.n`` completions a prompt; the same seed gives the same tokens.

        ``on_token(prompt, sample, token_id)`` is called as each token is sampled (streaming).
        """
        ...

    def load_weights(self, weights: Weights) -> None:
        """Sample from ``weights`` from now on. A generator that holds the very model a learner trains has them."""
        ...
