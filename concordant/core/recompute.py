"""Keeps the forward pass's context variables for a part that the backward pass computes again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import Context, copy_context


def same_context() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """For ``torch.utils.checkpoint``'s ``context_fn``: the contexts of the forward pass and of its repetition.

    Context variables hold the settings of a call: its adapter, its segments of attention, the positions that it reads.
    They are no longer set when the backward pass runs. On a GPU, that pass even runs in another thread.
    """
    return nullcontext(), _entered(copy_context())


@contextmanager
def _entered(context: Context) -> Iterator[None]:
    tokens = [(variable, variable.set(value)) for variable, value in context.items()]
    try:
        yield
    finally:
        for variable, token in reversed(tokens):
            variable.reset(token)
