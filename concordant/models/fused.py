"""A decoder's small operations in fewer steps of PyTorch, with the numbers they had.

On a CPU a small model's step spends an eighth of its time on them, writing and reading what the next one needs. GPT-2's
GELU becomes one operation, the same function; a root-mean-square norm and rotary embedding get a backward pass of
their own that reads each tensor once, where numbers agree with what the model's own code gives. Linear layers and
embeddings get those of ``weight_gradients.py``. A module that gets one becomes an object of a subclass; the classes of
transformers and PyTorch stay what they are.

T any leading shape, H hidden size, D head size.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.activations import NewGELUActivation

from concordant.core.seeding import torch_stream
from concordant.models.layout import REFUSALS
from concordant.models.weight_gradients import FORWARDS

FUSED = "concordant_fused"  # a class that ``fuse`` made
ROTARY = "apply_rotary_pos_emb"  # transformers' name for it in every modelling file
TOLERANCE = 1e-5


def fuse(model: nn.Module) -> None:
    """Put faster equivalents in place of what ``model`` has of these operations."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is NewGELUActivation:  # nine tensor operations
                setattr(module, name, nn.GELU(approximate="tanh"))
        kind: Any = type(module)
        known = kind in FORWARDS or _with_our_rotary(kind.forward) is not None
        if FUSED not in vars(kind) and (known or _is_rms_norm(module)):
            module.__class__ = _fused(kind)


@cache
def _fused(kind: Any) -> type[nn.Module]:
    """A subclass under the same name with our ``forward``; ``_blank`` makes what is copied or pickled of it."""

    def rms_norm(self: Any, hidden_states: Tensor) -> Tensor:
        if not (_is_plain(hidden_states) and _is_plain(self.weight)):
            return kind.forward(self, hidden_states)
        return _RMSNorm.apply(hidden_states, self.weight, self.variance_epsilon)

    def reduce(self: nn.Module, protocol: Any) -> tuple[Any, ...]:
        return _blank, (kind,), self.__dict__

    own = {
        "forward": FORWARDS.get(kind) or _with_our_rotary(kind.forward) or rms_norm,
        "__reduce_ex__": reduce,
        FUSED: True,
    }
    return type(kind.__name__, (kind,), own | {"__module__": kind.__module__, "__qualname__": kind.__qualname__})


def _blank(kind: Any) -> nn.Module:
    made = _fused(kind)
    return made.__new__(made)


def _is_plain(x: Tensor) -> bool:
    """Where our own steps are worth it and were measured."""
    return x.device.type == "cpu" and x.dtype == torch.float32


# -- root mean square norm (Zhang and Sennrich 2019, 1910.07467, equation 4) ------------------------


def _is_rms_norm(module: nn.Module) -> bool:
    weights = dict(module.named_parameters())
    if "variance_epsilon" not in vars(module) or list(weights) != ["weight"] or weights["weight"].ndim != 1:
        return False
    if len(inspect.signature(module.forward).parameters) != 1:  # a gate beside
        return False
    weight_H = weights["weight"].detach()
    # Small numbers, so that ε is seen.
    x_TH = 1e-3 * torch.randn(3, len(weight_H), generator=torch_stream(0, "models/fused")).to(weight_H.device)
    try:
        with torch.no_grad():
            own_TH = module(x_TH)
            return torch.allclose(_RMSNorm.apply(x_TH, weight_H, module.variance_epsilon), own_TH, rtol=TOLERANCE)
    except REFUSALS:
        return False


class _RMSNorm(torch.autograd.Function):
    """y = w · x · r, with r = 1 / √(mean x² + ε)."""

    @staticmethod
    def forward(ctx: Any, x_TH: Tensor, weight_H: Tensor, epsilon: float) -> Tensor:
        norm_T1 = torch.linalg.vector_norm(x_TH, dim=-1, keepdim=True)
        r_T1 = norm_T1.square_().div_(x_TH.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x_TH, weight_H, r_T1)
        return (x_TH * r_T1).mul_(weight_H)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TH: Tensor) -> tuple[Tensor, Tensor, None]:
        """With n = x · r and g the gradient: ∂w = Σ g · n;  ∂x = r · (g · w - n · mean(g · w · n))."""
        x_TH, weight_H, r_T1 = ctx.saved_tensors
        n_TH = x_TH * r_T1
        grad_n_TH = grad_TH * n_TH
        mean_T1 = (grad_n_TH @ weight_H).div_(len(weight_H))[..., None]
        x_grad_TH = (grad_TH * weight_H).sub_(n_TH.mul_(mean_T1)).mul_(r_T1)
        return x_grad_TH, grad_n_TH.flatten(0, -2).sum(0), None


# -- rotary position embedding (Su et al. 2021, 2104.09864, equation 34; halves as GPT-NeoX pairs them) -----


@cache
def _with_our_rotary(forward: Any) -> FunctionType | None:
    """The same code, with our function under the name of transformers'; None where that is not what it calls."""
    if not isinstance(forward, FunctionType) or ROTARY not in forward.__code__.co_names:
        return None
    theirs = forward.__globals__.get(ROTARY)
    if theirs is None or not _is_rotary(theirs):
        return None

    def rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *args: Any, **kwargs: Any) -> Any:
        whole = cos.shape[-1] == q.shape[-1] and not (args or kwargs or cos.requires_grad or sin.requires_grad)
        if q.dtype == k.dtype == torch.bfloat16 and _is_plain(
            cos
        ):  # autocast's; times cos it would be fp32 all the same
            q, k = q.float(), k.float()
        if not (whole and _is_plain(q) and _is_plain(k)):
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
    """(a, b) → (a · cos - b · sin, b · cos + a · sin), a and b the halves of D; cos and sin are constants."""

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
        """The transpose of it."""
        cos_TD, sin_TD = ctx.saved_tensors
        x_grad_TD = grad_TD * cos_TD
        (g_a, g_b), (x_a, x_b), (sin_a, sin_b) = (t.chunk(2, -1) for t in (grad_TD, x_grad_TD, sin_TD))
        x_a.addcmul_(g_b, sin_b)
        x_b.addcmul_(g_a, sin_a, value=-1)
        return x_grad_TD, None, None
