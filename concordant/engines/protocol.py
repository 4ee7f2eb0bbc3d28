"""Four verbs, here or on a cluster. Algorithms hold these and never know where tensors live."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from concordant.config.sampling import SamplingConfig
from concordant.core.objective import BranchOutputs, Objective, Outputs
from concordant.core.trees import PromptTree


@dataclass(frozen=True, slots=True)
class StepMetrics:
    grad_norm: float  # before clipping
    skipped: bool  # True when loss or gradient was not finite and the weights were left alone
    motion: Mapping[str, float] = field(default_factory=dict)  # "update/…": how far the weights moved; empty if skipped


class Learner(Protocol):
    """Something with weights and an optimizer."""

    version: int  # optimizer steps taken

    def forward(self, trees: Sequence[PromptTree], want: Outputs) -> BranchOutputs:
        """Numbers without gradient, on the CPU, in the order of ``trees``, their branches and response tokens."""
        ...

    def forward_backward(self, trees: Sequence[PromptTree], objective: Objective) -> dict[str, float]:
        """Add the objective's gradient over ``trees``; returns the loss, its terms and the metrics, all means."""
        ...

    def evaluate(self, trees: Sequence[PromptTree], objective: Objective) -> dict[str, float]:
        """The same numbers without a gradient."""
        ...

    def discard(self) -> None:
        """Forget the gradient."""
        ...

    def step(self, learning_rate: float) -> StepMetrics:
        """Clip, update, forget the gradient."""
        ...

    def reference(self) -> Learner:
        """A frozen learner of the weights as they are now; with LoRA it shares the backbone."""
        ...

    def export(self, folder: Path, card: Mapping[str, Any] | None = None) -> None:
        """Write the model in plain Hugging Face layout."""
        ...

    def weights(self) -> Any:
        """What ``Generator.load_weights`` takes."""
        ...

    def snapshot(self) -> Any:
        """The trained weights, copied; ``restore`` puts them back."""
        ...

    def restore(self, snapshot: Any) -> None: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled response, in token ids."""

    ids_T: Tensor  # int64, the end-of-turn/EOS token included when it was sampled
    logprob_T: Tensor  # nats under the policy that sampled, temperature applied
    finish_reason: str  # "stop" (an end token was sampled) or "length"
    version: int  # policy version (optimizer steps taken) that sampled it


class Generator(Protocol):
    version: int

    def generate(
        self,
        prompts: Sequence[Tensor],
        sampling: SamplingConfig,
        seed: int,
        on_token: Callable[[int, int, int], None] | None = None,
    ) -> list[list[Completion]]:
        """``sampling.n`` completions a prompt; the same seed gives the same tokens.

        ``on_token(prompt, sample, token_id)`` is called as each token is sampled (streaming).
        """
        ...

    def load_weights(self, weights: Any, version: int) -> None: ...
