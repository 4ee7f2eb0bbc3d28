"""What is computed again in the backward pass is computed in the context of the forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import Context, copy_context


def same_context() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """For ``torch.utils.checkpoint``'s ``context_fn``: the contexts of the forward pass and of its repetition.

    What a call brings with it (its adapter, its pieces of attention, the positions that it reads) is held by context
    variables. They are unset when the backward pass runs, on a GPU in another thread.
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
