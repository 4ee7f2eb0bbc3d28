"""The distribution of the next token (core/logprobs.py), computed in blocks of rows that fit in a core's cache.

The logits are the only tensor of size (C, V) that is kept. With PyTorch's own log-softmax, exp and gather, autograd
would make or keep four such tensors.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from concordant.core.row_blocks import row_blocks


def distribution(
    logits_CV: Tensor, target_C: Tensor, temperature: float, entropy: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The same numbers as ``core.logprobs.distribution``. Without ``entropy`` the returned entropy is undefined."""
    return _Distribution.apply(logits_CV, target_C, temperature, entropy)


class _Distribution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits_CV: Tensor, target_C: Tensor, temperature: float, entropy: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        normaliser_C, expected_C, top_C = (torch.empty(len(logits_CV), device=logits_CV.device) for _ in range(3))
        for rows in row_blocks(logits_CV):
            x = logits_CV[rows].float() / temperature if temperature != 1.0 else logits_CV[rows].float()
            highest = x.amax(-1, keepdim=True)
            weight = (x - highest).exp_()
            total = weight.sum(-1)
            normaliser_C[rows] = total.log() + highest[:, 0]
            top_C[rows] = x.gather(1, target_C[rows, None])[:, 0] >= highest[:, 0]
            if entropy:
                expected_C[rows] = weight.mul_(x).sum(-1) / total
        taken_C = logits_CV.gather(1, target_C[:, None])[:, 0].float() / temperature
        entropy_C = normaliser_C - expected_C  # H = log Z - E[logit]
        ctx.save_for_backward(logits_CV, target_C, normaliser_C, entropy_C)
        ctx.temperature = temperature
        ctx.mark_non_differentiable(top_C)
        ctx.set_materialize_grads(False)
        return taken_C - normaliser_C, entropy_C, top_C

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, logprob_grad_C: Tensor | None, entropy_grad_C: Tensor | None, _: Tensor | None
    ) -> tuple[Tensor, None, None, None]:
        """∂ log p(t) / ∂x = [t] - p;  ∂H / ∂x = -p · (log p + H)."""
        logits_CV, target_C, normaliser_C, entropy_C = ctx.saved_tensors
        given_C = torch.zeros_like(normaliser_C) if logprob_grad_C is None else logprob_grad_C / ctx.temperature
        grad_CV = torch.empty_like(logits_CV)
        for rows in row_blocks(logits_CV):
            log_p = logits_CV[rows].float() / ctx.temperature - normaliser_C[rows, None]
            if entropy_grad_C is None:
                grad = log_p.exp_().mul_(-given_C[rows, None])
            else:
                entropy_grad = entropy_grad_C[rows, None] / ctx.temperature
                factor = (log_p + entropy_C[rows, None]).mul_(-entropy_grad).sub_(given_C[rows, None])
                grad = log_p.exp_().mul_(factor)
            grad_CV[rows] = grad.scatter_add_(1, target_C[rows, None], given_C[rows, None])
        return grad_CV, None, None, None
