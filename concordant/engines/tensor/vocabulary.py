"""The distribution of the next token where each process has the logits of some tokens of the vocabulary.

The maximum and the sum of exponentials go between the processes, 16 bytes for each position forward and none backward.
The logits themselves stay where they were computed (Shoeybi et al. 2019, 1909.08053, section 3). The numbers are those
of core/logprobs.py and core/kl.py except for rounding.

Here v counts the tokens that this process has.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel

from concordant.core.axis import Axis
from concordant.core.row_blocks import row_blocks
from concordant.engines.tensor.cuts import Cut
from concordant.engines.tensor.exchange import spread, summed
from concordant.engines.tensor.split import vocabulary_cut
from concordant.models.head import Head


class PartOfDistribution:
    """The functions of a distribution over a vocabulary that is split by ``cut``."""

    def __init__(self, cut: Cut) -> None:
        self.cut = cut

    @classmethod
    def of(cls, model: PreTrainedModel, head: Head) -> PartOfDistribution | None:
        """None where the logits of ``model`` are whole, because the head is, or because its own code wants them so."""
        cut = None if head.own_code else vocabulary_cut(model)
        return None if cut is None else cls(cut)

    def distribution(
        self, logits_Cv: Tensor, target_C: Tensor, temperature: float, entropy: bool = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As ``core.logprobs.distribution``; ``target_C`` are tokens of the whole vocabulary."""
        return _Distribution.apply(logits_Cv, target_C - self.cut.start, self.cut.axis, temperature, entropy)

    def exact_kl(self, logits_Cv: Tensor, reference_Cv: Tensor) -> Tensor:
        """As ``core.kl.exact``."""
        axis = self.cut.axis
        logp_Cv = _log_softmax(logits_Cv, axis)
        return summed((logp_Cv.exp() * (logp_Cv - _log_softmax(reference_Cv, axis))).sum(-1), axis)


def _log_softmax(logits_Cv: Tensor, axis: Axis) -> Tensor:
    return logits_Cv - spread(_LogNormaliser.apply(logits_Cv, axis), axis)[:, None]


class _LogNormaliser(Function):
    """log Σ exp(logit) over the whole vocabulary, (C,)."""

    @staticmethod
    def forward(ctx: Any, logits_Cv: Tensor, axis: Axis) -> Tensor:
        highest_C = axis.highest(logits_Cv.amax(-1))
        normaliser_C = axis.sum((logits_Cv - highest_C[:, None]).exp_().sum(-1)).log_().add_(highest_C)
        ctx.save_for_backward(logits_Cv, normaliser_C)
        return normaliser_C

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_C: Tensor) -> tuple[Tensor, None]:
        logits_Cv, normaliser_C = ctx.saved_tensors
        return (logits_Cv - normaliser_C[:, None]).exp_().mul_(grad_C[:, None]), None


class _Distribution(Function):
    """As ``kernels/softmax.py``.

    ``place_C`` is the target's place in this process's part, below 0 or past its end if another process has the target.
    """

    @staticmethod
    def forward(
        ctx: Any, logits_Cv: Tensor, place_C: Tensor, axis: Axis, temperature: float, entropy: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        is_own_C = (place_C >= 0) & (place_C < logits_Cv.shape[1])
        place_C = torch.where(is_own_C, place_C, 0)
        highest_C = axis.highest(logits_Cv.float().amax(-1) / temperature)
        sums_3C = logits_Cv.new_zeros(3, len(logits_Cv), dtype=torch.float32)  # of weights, of weighted logits; target
        for rows in row_blocks(logits_Cv):
            x = logits_Cv[rows].float() / temperature
            weight = (x - highest_C[rows, None]).exp_()
            sums_3C[0, rows] = weight.sum(-1)
            if entropy:
                sums_3C[1, rows] = weight.mul_(x).sum(-1)
        taken_C = logits_Cv.gather(1, place_C[:, None])[:, 0].float() / temperature
        sums_3C[2] = taken_C.masked_fill(~is_own_C, 0.0)
        total_C, weighted_C, taken_C = axis.sum(sums_3C)
        normaliser_C = total_C.log() + highest_C
        entropy_C = normaliser_C - weighted_C / total_C  # H = log Z - E[logit]
        top_C = (taken_C >= highest_C).float()
        ctx.save_for_backward(logits_Cv, place_C, is_own_C, normaliser_C, entropy_C)
        ctx.temperature = temperature
        ctx.mark_non_differentiable(top_C)
        ctx.set_materialize_grads(False)
        return taken_C - normaliser_C, entropy_C, top_C

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, logprob_grad_C: Tensor | None, entropy_grad_C: Tensor | None, _: Tensor | None
    ) -> tuple[Tensor, None, None, None, None]:
        """∂ log p(t) / ∂x = [t] - p;  ∂H / ∂x = -p · (log p + H)."""
        logits_Cv, place_C, is_own_C, normaliser_C, entropy_C = ctx.saved_tensors
        given_C = torch.zeros_like(normaliser_C) if logprob_grad_C is None else logprob_grad_C / ctx.temperature
        of_target_C = given_C.masked_fill(~is_own_C, 0.0)
        grad_Cv = torch.empty_like(logits_Cv)
        for rows in row_blocks(logits_Cv):
            log_p = logits_Cv[rows].float() / ctx.temperature - normaliser_C[rows, None]
            factor = -given_C[rows, None]
            if entropy_grad_C is not None:
                factor = factor - (log_p + entropy_C[rows, None]) * (entropy_grad_C[rows, None] / ctx.temperature)
            grad = log_p.exp_().mul_(factor)
            grad_Cv[rows] = grad.scatter_add_(1, place_C[rows, None], of_target_C[rows, None])
        return grad_Cv, None, None, None, None
