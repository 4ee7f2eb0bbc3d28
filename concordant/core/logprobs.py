"""Log-probability, entropy and exact KL of response tokens from hidden states, in chunks.

A chunk's logits are made and reduced. Where a gradient is wanted they are kept for the backward pass, if all chunks'
take no more than 256 MiB in fp32; else every chunk's are made again there.

N response tokens, C tokens of a chunk, H hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from concordant.core import kl
from concordant.core.objective import BranchOutputs, Outputs

Head = Callable[[Tensor], Tensor]  # (C, H) -> (C, V) logits, everything the architecture does after lm_head included

CHUNK_ELEMENTS = 2**24  # logits a chunk holds: 64 MiB in fp32
KEPT_ELEMENTS = 2**26  # logits kept for the backward pass, 256 MiB; where there are more, all are made again
BLOCK_ELEMENTS = 2**18  # logits worked on at once by a CPU, 1 MiB


def of_tokens(
    hidden_NH: Tensor,
    target_N: Tensor,
    head: Head,
    vocabulary: int,
    want: Outputs,
    temperature: float = 1.0,
    reference: tuple[Tensor, Head] | None = None,
) -> BranchOutputs:
    """What ``want`` asks of the next-token distributions softmax(head(hidden) / temperature).

    ``reference``: hidden states (N, H') and head of the model KL is measured from, needed when ``want.kl``.
    """
    size = max(1, CHUNK_ELEMENTS // vocabulary)
    recompute = torch.is_grad_enabled() and hidden_NH.requires_grad and len(hidden_NH) * vocabulary > KEPT_ELEMENTS
    parts: list[tuple[Tensor | None, ...]] = []
    for at in range(0, max(len(hidden_NH), 1), size):
        chunk = slice(at, at + size)
        other = None if reference is None else (reference[0][chunk], reference[1])
        arguments = (hidden_NH[chunk], target_N[chunk], head, want, temperature, other)
        parts.append(
            checkpoint(_of_chunk, *arguments, use_reentrant=False, preserve_rng_state=False)
            if recompute
            else _of_chunk(*arguments)
        )
    logprob, top, entropy, divergence = (_join(column) for column in zip(*parts, strict=True))
    return BranchOutputs(logprob_N=logprob, top_N=top, entropy_N=entropy, kl_N=divergence)


def _of_chunk(
    hidden_CH: Tensor,
    target_C: Tensor,
    head: Head,
    want: Outputs,
    temperature: float,
    reference: tuple[Tensor, Head] | None,
) -> tuple[Tensor | None, ...]:
    logits_CV = head(hidden_CH)
    logprob_C, entropy_C, top_C = _Softmax.apply(logits_CV, target_C, temperature, want.entropy)
    kl_C = None
    if want.kl:
        if reference is None:
            raise ValueError("want.kl needs a reference")
        with torch.no_grad():
            reference_CV = reference[1](reference[0]).float() / temperature
        kl_C = kl.exact(logits_CV.float() / temperature, reference_CV)
    return (
        logprob_C if want.logprob else None,
        top_C if want.top else None,
        entropy_C if want.entropy else None,
        kl_C,
    )


class _Softmax(torch.autograd.Function):
    """Log-prob of the target, entropy and whether the target is the most likely token, each (C,), in fp32.

    A block of rows at a time, small enough for the cache, and nothing of size (C, V) kept but the logits: autograd's
    own logsumexp, exp and gather would keep or make it four times. fp32 because a bf16 log-softmax is off by 1e-2
    nats, more than a PPO ratio may be.
    """

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
                given_H = entropy_grad_C[rows, None] / ctx.temperature
                factor = (log_p + entropy_C[rows, None]).mul_(-given_H).sub_(given_C[rows, None])
                grad = log_p.exp_().mul_(factor)
            grad_CV[rows] = grad.scatter_add_(1, target_C[rows, None], given_C[rows, None])
        return grad_CV, None, None, None


def row_blocks(logits_CV: Tensor) -> Iterator[slice]:
    """Rows at a time that stay in a core's cache; on a GPU all at once."""
    rows, vocabulary = logits_CV.shape
    size = max(1, BLOCK_ELEMENTS // vocabulary) if logits_CV.device.type == "cpu" else max(rows, 1)
    return (slice(at, at + size) for at in range(0, rows, size))


def _join(columns: tuple[Tensor | None, ...]) -> Tensor | None:
    kept = [c for c in columns if c is not None]
    return torch.cat(kept) if kept else None
