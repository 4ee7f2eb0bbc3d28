"""The protocols of scorers, learners and generators. An algorithm uses them and does not know where their tensors are.

Every call that takes time returns a ``Future``. An engine in this process does the work during the call; an engine on
other machines returns at once. A caller that needs several results starts all calls before it waits for the first one.
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
# An end token was sampled; the text contains a stop string; the response has as many tokens as it may have.
FinishReason = Literal["stop", "stop_string", "length"]


class Future(Protocol[T_co]):
    """A result that is ready or is still being computed."""

    def result(self) -> T_co:
        """Wait for the result. An error of the computation is raised here."""
        ...


@dataclass(frozen=True, slots=True)
class Done(Generic[T]):
    """A future whose result is ready from the start."""

    value: T

    def result(self) -> T:
        return self.value


# -- scorers --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """Facts about a scorer that every engine can report."""

    precision: torch.dtype  # of matrix products
    layout: Layout  # how trees are put into rows
    micro_batch_tokens: int  # tokens of a pass with gradient at present; halved where memory ran out
    weights: int  # number of parameters of the model
    trained: int  # number of parameters that the optimizer changes; 0 for a scorer


class Scorer(Protocol):
    """A model that reads trees: a policy, a reference, a critic or a reward model."""

    def forward(self, trees: Sequence[PromptTree], want: Outputs) -> Future[BranchOutputs]:
        """Outputs without gradient, on the CPU, in the order of the trees, their branches and their response tokens."""
        ...

    def evaluate(self, trees: Sequence[PromptTree], objective: Objective) -> Future[dict[str, float]]:
        """The loss of ``objective``, its terms and its metrics, all as means, without gradient."""
        ...

    def describe(self) -> Description: ...


# -- learners -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StepMetrics:
    grad_norm: float  # before clipping
    skipped: bool  # True if the loss or the gradient was not finite; then the weights are unchanged
    # "update/…": how far the weights moved, unless skipped; "weights_sent": bytes that went to generators apart
    motion: Mapping[str, float] = field(default_factory=dict)
    held: float | None = None  # the penalty of ``hold``; None if no weights are held


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """How the gradient reached one tensor of the model."""

    name: str
    is_trained: bool  # the optimizer changes this tensor
    came: bool  # the tensor has a gradient
    is_zero: bool = False  # every element of the gradient is 0
    is_finite: bool = True  # every element of the gradient is finite


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Memory of the process or device that holds the weights, in bytes."""

    peak: int  # the most that was in use so far
    total: int  # the most that may be used


class Weights(Protocol):
    """A learner's weights after ``version`` optimizer steps, for a generator or another tool."""

    @property
    def version(self) -> int: ...

    @property
    def adapters(self) -> Adapters: ...

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """The tensors by name.

        ``merged``: the whole model by plain Hugging Face names, with the adapter merged into the weights. ``apart``:
        only the adapter, by PEFT's names, because its base does not change.
        """
        ...


class Role(Protocol):
    """A part of a run that has a state and saves and loads this state itself. The loop only passes it a folder."""

    def save(self, folder: Path) -> None:
        """Write everything that the next step depends on into the empty ``folder``. OSError if the disk is full."""
        ...

    def load(self, folder: Path) -> None:
        """Read the state that ``save`` wrote, so that the next step gives the same numbers."""
        ...

    def keep(self) -> None:
        """Keep a copy of the trained weights as they are now, instead of an earlier copy."""
        ...

    def forget(self) -> None:
        """Drop the copy of the weights."""
        ...

    def restore(self) -> None:
        """Put the kept weights back. ``save`` also writes the copy, until ``forget`` drops it."""
        ...

    def checkpoint_bytes(self, with_kept: bool) -> int:
        """About how many bytes ``save`` writes; ``with_kept``: including a copy made by ``keep``."""
        ...

    def export_bytes(self) -> int:
        """About how many bytes the exports of the role write together."""
        ...


class Learner(Scorer, Role, Protocol):
    """A scorer with an optimizer."""

    @property
    def version(self) -> int:
        """The number of optimizer steps so far."""
        ...

    def forward_backward(self, trees: Sequence[PromptTree], objective: Objective) -> Future[dict[str, float]]:
        """Add the gradient of ``objective`` over ``trees``. Returns the same numbers as ``evaluate``."""
        ...

    def hold(self, texts: Sequence[PromptTree], objective: Objective, strength: float) -> None:
        """From now on ``step`` adds the penalty strength / 2 · Σ F (θ - θ₀)² (elastic weight consolidation).

        θ₀ are the present weights. F says how much each weight matters for ``texts``, a token: ``objective`` is the
        mean negative log-prob of their tokens.
        """
        ...

    def discard(self) -> None:
        """Drop the gradient that was added so far."""
        ...

    def step(self, learning_rate: float) -> Future[StepMetrics]:
        """Clip the gradient, update the weights and drop the gradient."""
        ...

    def reference(self) -> Scorer:
        """A frozen scorer with the weights as they were at the first call, or with those that were set as reference.

        With LoRA the scorer shares the backbone of the learner.
        """
        ...

    def set_reference(self, reference: Scorer) -> None:
        """Measure ``Outputs.kl`` from ``reference``, a scorer of the same engine."""
        ...

    def publish(self, adapters: Adapters = "merged") -> Weights:
        """The present weights, for ``Generator.load_weights``. They must be read before the next step."""
        ...

    def export(self, folder: Path, card: Mapping[str, Any] | None = None) -> None:
        """Write the model in plain Hugging Face layout, with adapters merged."""
        ...

    @property
    def adapter_base(self) -> str:
        """The folder or hub id of the base under the trained adapter.

        "" if no adapter is trained, or if its base is on no disk: a built-in model, or a base into which another
        adapter was merged.
        """
        ...

    def export_adapter(self, folder: Path, card: Mapping[str, Any] | None = None) -> None:
        """Write the trained adapter in PEFT's layout, for the base that ``adapter_base`` names."""
        ...

    # The doctor's preflight uses these before the first step.

    def rehearsal(self) -> AbstractContextManager[None]:
        """Inside the block the learner can be tried. At its end gradient, random state and micro-batches are reset."""
        ...

    def reached(self) -> list[Reached]:
        """How the gradient added so far reached each tensor of the model, one row for each tensor."""
        ...

    def memory(self) -> MemoryUse: ...


# -- generators -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One sampled response, in token ids."""

    ids_T: Tensor  # int64; includes the end token if one was sampled
    logprob_T: Tensor  # nats, in the distribution that was sampled from
    finish_reason: FinishReason
    version: int  # optimizer steps that the policy had taken when it sampled

    @property
    def ended(self) -> bool:
        """Whether the response ended by itself, by an end token or a stop string, and not at the limit of tokens."""
        return self.finish_reason != "length"


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
        """``sampling.n`` completions for each prompt. The same seed gives the same tokens.

        The logits become the distribution in transformers' order: the repetition penalty over the tokens of prompt and
        response, no end token before ``min_new_tokens``, temperature, top-k, top-p, min-p. A response ends with an end
        token, with the first token after which its decoded text contains a stop string, or at the limit of tokens.
        ``on_token(prompt, sample, token_id)`` is called for each token as soon as it is sampled.
        """
        ...

    def load_weights(self, weights: Weights) -> None:
        """Sample from ``weights`` from now on. Nothing is copied if the generator shares the model with the learner."""
        ...
