"""Divergences between the next-token distributions of a student and of a teacher, exact over the vocabulary.

Agarwal et al. 2023, 2306.13649 (GKD), section 3. The gradient is computed together with the value, in blocks of rows,
so that one matrix (C, V) is kept for the backward pass. Here p is the student's distribution and q the teacher's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from concordant.config.names import DivergenceName
from concordant.core.axis import Axis, NoAxis
from concordant.core.row_blocks import row_blocks

# (log p, log q, β) -> the summands of the divergence, and its derivative by log p, each (C, V). Multiples of p may be
# left out of the derivative: the logits are free up to a constant, so they do not change the gradient.
Formula = Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]


def forward_kl(logp_CV: Tensor, logq_CV: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """KL(q‖p) = Σ q (log q - log p). The student covers everything that the teacher says.  Hinton et al. 2015."""
    q_CV = logq_CV.exp()
    return q_CV * (logq_CV - logp_CV), -q_CV


def reverse_kl(logp_CV: Tensor, logq_CV: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """KL(p‖q) = Σ p (log p - log q). The student says only what the teacher says too.  Gu et al. 2023, 2306.08543."""
    summand_CV = logp_CV.exp() * (logp_CV - logq_CV)
    return summand_CV, summand_CV


def jsd(logp_CV: Tensor, logq_CV: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """β KL(q‖m) + (1-β) KL(p‖m) with m = β q + (1-β) p: the generalised Jensen–Shannon divergence, 0 < β < 1.

    Never above β log(1/β) + (1-β) log(1/(1-β)), also where the distributions share no token.  GKD eq. 1.
    """
    logm_CV = torch.logaddexp(logp_CV + math.log1p(-beta), logq_CV + math.log(beta))
    of_student_CV = (1 - beta) * logp_CV.exp() * (logp_CV - logm_CV)
    return beta * logq_CV.exp() * (logq_CV - logm_CV) + of_student_CV, of_student_CV


DIVERGENCES: dict[DivergenceName, Formula] = {"forward_kl": forward_kl, "reverse_kl": reverse_kl, "jsd": jsd}


@dataclass(frozen=True, slots=True)
class Divergence:
    """Which divergence is measured; ``beta`` is the teacher's share of the mixture in ``jsd``."""

    name: DivergenceName = "jsd"
    beta: float = 0.5

    def between(
        self, logits_CV: Tensor, teacher_CV: Tensor, temperature: float = 1.0, axis: Axis | None = None
    ) -> Tensor:
        """The divergence of the distributions softmax(logits / temperature), nats, (C,), in fp32.

        The gradient reaches ``logits_CV`` alone. Columns beyond the narrower of the two matrices belong to no token,
        and are left out. Where a vocabulary is split over ``axis``, both matrices are this process's equal part of it.
        """
        return _Between.apply(logits_CV, teacher_CV, self, temperature, axis or NoAxis())


class _Between(Function):
    @staticmethod
    def forward(
        ctx: Any, logits_CV: Tensor, teacher_CV: Tensor, divergence: Divergence, temperature: float, axis: Axis
    ) -> Tensor:
        formula, width = DIVERGENCES[divergence.name], min(logits_CV.shape[1], teacher_CV.shape[1])
        both = (logits_CV[:, :width], teacher_CV[:, :width])
        normaliser_2C1 = [_normaliser(x_CV, temperature, axis) for x_CV in both]
        sums_2C = torch.zeros(2, len(logits_CV), device=logits_CV.device)
        grad_CV = torch.zeros_like(logits_CV) if ctx.needs_input_grad[0] else None
        for rows in row_blocks(both[0]):
            logp, logq = (x[rows].float() / temperature - z[rows] for x, z in zip(both, normaliser_2C1, strict=True))
            summand, slope = formula(logp, logq, divergence.beta)
            sums_2C[:, rows] = torch.stack([summand.sum(-1), slope.sum(-1)])
            if grad_CV is not None:
                grad_CV[rows, :width] = slope.to(grad_CV.dtype)
        value_C, slope_C = axis.sum(sums_2C)
        if grad_CV is not None:
            for rows in row_blocks(both[0]):  # ∂/∂x = slope - p Σ slope
                p = (both[0][rows].float() / temperature - normaliser_2C1[0][rows]).exp_()
                grad_CV[rows, :width] -= p.mul_(slope_C[rows, None]).to(grad_CV.dtype)
            ctx.save_for_backward(grad_CV)
            ctx.temperature = temperature
        return value_C.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, given_C: Tensor) -> tuple[Tensor, None, None, None, None]:
        (grad_CV,) = ctx.saved_tensors
        return grad_CV * (given_C / ctx.temperature)[:, None].to(grad_CV.dtype), None, None, None, None


def _normaliser(logits_CV: Tensor, temperature: float, axis: Axis) -> Tensor:
    """log Σ exp(logit / temperature) over the whole vocabulary, (C, 1), in fp32."""
    highest_C = axis.highest(logits_CV.amax(-1).float() / temperature)
    total_C = torch.empty_like(highest_C)
    for rows in row_blocks(logits_CV):
        total_C[rows] = (logits_CV[rows].float() / temperature - highest_C[rows, None]).exp_().sum(-1)
    return (axis.sum(total_C).log() + highest_C)[:, None]
