"""Rotary position embedding in one step forward and one back (Su et al. 2021, 2104.09864, equation 34).

The first half of a head is paired with its second half, as in GPT-NeoX. Attention modules of transformers call a
function ``apply_rotary_pos_emb`` of their own file. If this function computes the same numbers as ours, the module gets
a copy of its code that calls our function instead.

T stands for tokens in leading dimensions of any shape.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from concordant.core.seeding import torch_stream
from concordant.kernels.replaced import is_made_by, is_plain, subclass
from concordant.models.backbone import REFUSALS

ROTARY = "apply_rotary_pos_emb"  # transformers' name for it in every modelling file
TOLERANCE = 1e-5


def put_on(model: nn.Module) -> bool:
    """Give the kernel to every module whose code calls a rotary embedding that computes the same numbers."""
    rotating = [m for m in model.modules() if not is_made_by(m, fast) and _with_our_rotary(type(m).forward) is not None]
    for module in rotating:
        kind: Any = type(module)
        module.__class__ = fast(kind)
    return bool(rotating)


@cache
def fast(kind: Any) -> type[nn.Module]:
    forward = _with_our_rotary(kind.forward)
    assert forward is not None
    return subclass(kind, forward, fast)


@cache
def _with_our_rotary(forward: Any) -> FunctionType | None:
    """A copy of ``forward`` that calls our function; None where ``forward`` does not call such a rotary embedding."""
    if not isinstance(forward, FunctionType) or ROTARY not in forward.__code__.co_names:
        return None
    theirs = forward.__globals__.get(ROTARY)
    if theirs is None or not _is_rotary(theirs):
        return None

    def rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *args: Any, **kwargs: Any) -> Any:
        whole = cos.shape[-1] == q.shape[-1] and not (args or kwargs or cos.requires_grad or sin.requires_grad)
        # Autocast gives q and k in bf16. Their product with cos, which is fp32, would be fp32 anyway.
        if q.dtype == k.dtype == torch.bfloat16 and is_plain(cos):
            q, k = q.float(), k.float()
        if not (whole and is_plain(q) and is_plain(k)):
            return theirs(q, k, cos, sin, *args, **kwargs)
        cos, sin = cos[:, None], sin[:, None]
        return _Rotary.apply(q, cos, sin), _Rotary.apply(k, cos, sin)

    made = FunctionType(
        forward.__code__, forward.__globals__ | {ROTARY: rotate}, forward.__name__, forward.__defaults__,
        forward.__closure__,
    )  # fmt: skip
    made.__kwdefaults__ = forward.__kwdefaults__
    return made


def _is_rotary(theirs: Callable[..., Any]) -> bool:
    stream = torch_stream(0, "models/fused/rotary")
    q, k, cos, sin = (torch.randn(shape, generator=stream) for shape in [(1, 2, 3, 8), (1, 1, 3, 8), *[(1, 3, 8)] * 2])
    try:
        given = theirs(q, k, cos, sin)
        return all(
            torch.allclose(_Rotary.apply(x, cos[:, None], sin[:, None]), y, rtol=TOLERANCE, atol=TOLERANCE)
            for x, y in zip((q, k), given, strict=True)
        )
    except REFUSALS:  # another signature, or other shapes
        return False


class _Rotary(torch.autograd.Function):
    """(a, b) → (a · cos - b · sin, b · cos + a · sin); a and b are the two halves of D. cos, sin get no gradient."""

    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> Tensor:
        ctx.save_for_backward(cos_TD, sin_TD)
        y_TD = x_TD * cos_TD
        (a, b), (y_a, y_b), (sin_a, sin_b) = (t.chunk(2, -1) for t in (x_TD, y_TD, sin_TD))
        y_a.addcmul_(b, sin_a, value=-1)
        y_b.addcmul_(a, sin_b)
        return y_TD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TD: Tensor) -> tuple[Tensor, None, None]:
        """The transposed map: (g_a, g_b) → (g_a · cos + g_b · sin, g_b · cos - g_a · sin)."""
        cos_TD, sin_TD = ctx.saved_tensors
        x_grad_TD = grad_TD * cos_TD
        (g_a, g_b), (x_a, x_b), (sin_a, sin_b) = (t.chunk(2, -1) for t in (grad_TD, x_grad_TD, sin_TD))
        x_a.addcmul_(g_b, sin_b)
        x_b.addcmul_(g_a, sin_a, value=-1)
        return x_grad_TD, None, None
