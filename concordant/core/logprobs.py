"""Log-probability, entropy, exact KL and divergence of response tokens from hidden states, in chunks.

The logits of one chunk are computed and reduced before those of the next. If a gradient is wanted and all logits
together take no more than 256 MiB in fp32, they are kept for the backward pass. If they take more, the backward pass
computes the logits of each chunk again.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from concordant.core import kl
from concordant.core.axis import Axis
from concordant.core.objective import BranchOutputs, Outputs
from concordant.core.recompute import same_context

Head = Callable[[Tensor], Tensor]  # (C, H) -> (C, V) logits, with everything that the architecture does after lm_head
# (logits_CV, target_C, temperature, whether entropy is wanted) -> log-prob, entropy and ``top`` of the targets, (C,)
Distribution = Callable[[Tensor, Tensor, float, bool], tuple[Tensor, Tensor, Tensor]]
ExactKL = Callable[[Tensor, Tensor], Tensor]  # (logits, logits of the reference) -> nats, (C,)

CHUNK_ELEMENTS = 2**24  # logits of one chunk: 64 MiB in fp32
KEPT_ELEMENTS = 2**26  # most logits kept for the backward pass: 256 MiB; if there are more, all are computed again


def distribution(
    logits_CV: Tensor, target_C: Tensor, temperature: float, entropy: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-prob of the target, entropy of the distribution, and whether the target is the most likely token, each (C,).

    Everything is computed in fp32, because a log-softmax in bf16 is wrong by 1e-2 nats, which is too much for PPO's
    ratios. This function ignores ``entropy``; faster functions of the same kind skip the entropy if it is False.
    """
    log_p_CV = torch.log_softmax(logits_CV.float() / temperature, dim=-1)
    logprob_C = log_p_CV.gather(1, target_C[:, None])[:, 0]
    entropy_C = -(log_p_CV.exp() * log_p_CV).sum(-1)
    top_C = (logprob_C >= log_p_CV.amax(-1)).float()
    return logprob_C, entropy_C, top_C.detach()


def of_tokens(
    hidden_NH: Tensor,
    target_N: Tensor,
    head: Head,
    vocabulary: int,
    want: Outputs,
    temperature: float = 1.0,
    reference: tuple[Tensor, Head] | None = None,
    distribution: Distribution = distribution,
    exact_kl: ExactKL = kl.exact,
    axis: Axis | None = None,
) -> BranchOutputs:
    """The numbers in ``want`` of the next-token distributions softmax(head(hidden) / temperature).

    ``reference``: hidden states (N, H') and head of the reference, needed if ``want.compares``.
    ``distribution``: the function above, or a faster one that gives the same numbers. If ``head`` gives only a part of
    the logits, ``distribution`` and ``exact_kl`` are functions that know the other parts, and ``axis`` has them.
    """
    size = max(1, CHUNK_ELEMENTS // vocabulary)
    recompute = torch.is_grad_enabled() and hidden_NH.requires_grad and len(hidden_NH) * vocabulary > KEPT_ELEMENTS
    parts: list[tuple[Tensor | None, ...]] = []
    for at in range(0, max(len(hidden_NH), 1), size):
        chunk = slice(at, at + size)
        other = None if reference is None else (reference[0][chunk], reference[1])
        arguments = (hidden_NH[chunk], target_N[chunk], head, want, temperature, other, distribution, exact_kl, axis)
        parts.append(
            checkpoint(_of_chunk, *arguments, use_reentrant=False, preserve_rng_state=False, context_fn=same_context)
            if recompute
            else _of_chunk(*arguments)
        )
    logprob, top, entropy, kl_N, divergence = (_join(column) for column in zip(*parts, strict=True))
    return BranchOutputs(logprob_N=logprob, top_N=top, entropy_N=entropy, kl_N=kl_N, divergence_N=divergence)


def _of_chunk(
    hidden_CH: Tensor,
    target_C: Tensor,
    head: Head,
    want: Outputs,
    temperature: float,
    reference: tuple[Tensor, Head] | None,
    distribution: Distribution,
    exact_kl: ExactKL,
    axis: Axis | None,
) -> tuple[Tensor | None, ...]:
    logits_CV = head(hidden_CH)
    logprob_C = entropy_C = top_C = kl_C = divergence_C = None
    if want.logprob or want.top or want.entropy:
        logprob_C, entropy_C, top_C = distribution(logits_CV, target_C, temperature, want.entropy)
    if want.compares:
        if reference is None:
            raise ValueError("want.kl and want.divergence need a reference")
        with torch.no_grad():
            reference_CV = reference[1](reference[0])
        if want.kl:
            kl_C = exact_kl(logits_CV.float() / temperature, reference_CV.float() / temperature)
        if want.divergence is not None:
            divergence_C = want.divergence.between(logits_CV, reference_CV, temperature, axis)
    return (
        logprob_C if want.logprob else None,
        top_C if want.top else None,
        entropy_C if want.entropy else None,
        kl_C,
        divergence_C,
    )


def _join(columns: tuple[Tensor | None, ...]) -> Tensor | None:
    kept = [c for c in columns if c is not None]
    return torch.cat(kept) if kept else None
