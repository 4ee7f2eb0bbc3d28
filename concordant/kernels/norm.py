"""A root-mean-square norm with its own backward pass, which reads each tensor once.

y = w · x / √(mean x² + ε), Zhang and Sennrich 2019, 1910.07467, equation 4. As separate operations, a norm would write
several tensors to memory and read them again.

T stands for tokens in leading dimensions of any shape.
"""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from concordant.core.seeding import torch_stream
from concordant.kernels.replaced import is_made_by, is_plain, subclass
from concordant.models.backbone import REFUSALS

TOLERANCE = 1e-5


def put_on(model: nn.Module) -> bool:
    """Give the kernel to every norm whose numbers agree with the formula above."""
    norms = [m for m in model.modules() if not is_made_by(m, fast) and _is_rms_norm(m)]
    for module in norms:
        kind: Any = type(module)
        module.__class__ = fast(kind)
    return bool(norms)


@cache
def fast(kind: Any) -> type[nn.Module]:
    def rms_norm(self: Any, hidden_states: Tensor) -> Tensor:
        if not (is_plain(hidden_states) and is_plain(self.weight)):
            return kind.forward(self, hidden_states)
        return _RMSNorm.apply(hidden_states, self.weight, self.variance_epsilon)

    return subclass(kind, rms_norm, fast)


def _is_rms_norm(module: nn.Module) -> bool:
    weights = dict(module.named_parameters())
    if "variance_epsilon" not in vars(module) or list(weights) != ["weight"] or weights["weight"].ndim != 1:
        return False
    if len(inspect.signature(module.forward).parameters) != 1:  # some norms of state-space models also take a gate
        return False
    weight_H = weights["weight"].detach()
    # The numbers are small, so that a wrong ε changes the result.
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
