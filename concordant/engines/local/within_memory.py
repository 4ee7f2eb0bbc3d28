"""Repeats a step with smaller micro-batches when memory runs out."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import torch

from concordant.config.train import TrainConfig
from concordant.core.errors import RunFailed
from concordant.engines.memory import enough_memory, is_out_of_memory

P = ParamSpec("P")
T = TypeVar("T")


class Halving(Protocol):
    """An object that splits its work into micro-batches."""

    config: TrainConfig
    halvings: int  # how often micro_batch_tokens was halved so far

    @property
    def micro_batch_tokens(self) -> int: ...


def within_memory(
    phase: str,
) -> Callable[[Callable[Concatenate[Any, P], T]], Callable[Concatenate[Any, P], T]]:
    """A decorator for a method that may run out of memory. The error then names ``phase``.

    If ``train.halve_on_oom`` is on, the method is called again with half as many tokens at once, down to one token.
    """

    def decorate(method: Callable[Concatenate[Any, P], T]) -> Callable[Concatenate[Any, P], T]:
        @wraps(method)
        def call(self: Halving, *args: P.args, **kwargs: P.kwargs) -> T:
            while True:
                tokens = self.micro_batch_tokens
                try:
                    with enough_memory(phase, f"lower train.micro_batch_tokens (now {tokens})"):
                        return method(self, *args, **kwargs)
                except RunFailed as problem:
                    if not is_out_of_memory(problem.__cause__):
                        raise
                    torch.cuda.empty_cache()  # does nothing without a GPU
                    if not self.config.halve_on_oom or tokens < 2:
                        raise
                self.halvings += 1

        return call

    return decorate
