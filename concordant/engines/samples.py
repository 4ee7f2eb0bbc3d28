"""A response while it is sampled, and what a batch of such responses promises to whoever fills it.

The generator samples all responses of one call. A server lets responses of many calls join and leave the same batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from concordant.config.sampling import SamplingConfig
from concordant.data.stop_strings import StopStrings
from concordant.engines.protocol import FinishReason


@dataclass(slots=True, kw_only=True, eq=False)
class Sample:
    """One response that is being sampled. Its settings are its own; neighbours in the batch may have others.

    Its random numbers depend on ``seed``, the ids of the prompt, ``occurrence`` and ``number``.
    """

    owner: Any  # whom the response belongs to; neighbouring samples of one owner have the same prompt
    prompt_T: Tensor  # int64
    sampling: SamplingConfig
    seed: int
    room: int  # the most tokens that this response may have
    number: int = 0  # index among the samples of this prompt
    occurrence: int = 0  # how many equal prompts of the same call come before this prompt
    adapter: str | None = None  # the adapter that samples it, in a batch that has several; None is the base
    stops: StopStrings | None = None
    likely: int | None = None  # how many of the most likely tokens are noted at each step; None: nothing is noted
    last: int = -1  # the token that the model reads next, at first the prompt's last
    uniform_T: list[float] = field(default_factory=list)  # drawn when the sample gets its slot, to save memory
    past_J: Tensor | None = None  # ids of prompt and response, if a repetition is penalised; made with the slot too
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)  # nats, in the distribution that was sampled from
    noted: list[Noted] = field(default_factory=list)  # for each token, if ``likely`` is given
    reason: FinishReason | None = None  # None while the response goes on


@dataclass(frozen=True, slots=True)
class Noted:
    """Log-probs of the model itself at one step, in nats: at temperature 1, nothing left out."""

    logprob: float  # of the token that was sampled
    likely: list[tuple[int, float]]  # the most likely tokens, the most likely one first


class Batch(Protocol):
    """Responses that are sampled together. One thread uses it, inside ``computing``."""

    live: list[Sample]
    slots: int
    columns: int  # the most tokens of a prompt with its response

    def computing(self) -> AbstractContextManager[None]:
        """Inside the block, this thread computes as the sampler does: in its precision, without gradient."""
        ...

    def may_join(self, sample: Sample, joining: Sequence[Sample]) -> bool:
        """Whether ``sample`` can get a slot now, together with ``joining``."""
        ...

    def admit(self, joining: Sequence[Sample]) -> None:
        """Give slots to samples. Neighbours of one owner share the pass over their prompt."""
        ...

    def advance(self, steps: int = 1) -> list[Sample]:
        """Sample the next token of each live response, ``steps`` times. Returns those that have ended.

        They have left the batch, and their ``reason`` says why.
        """
        ...

    def leave(self, gone: Sequence[Sample]) -> None:
        """Take live samples out of the batch, whose responses nobody wants any more."""
        ...
