"""Log-probability, entropy and exact KL of response tokens from hidden states, in chunks.

A chunk's logits are made and reduced. Where a gradient is wanted they are kept for the backward pass, if all chunks'
take no more than 256 MiB in fp32; else every chunk's are made again there.

N response tokens, C tokens of a chunk, H hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from concordant.core import kl
from concordant.core.objective import BranchOutputs, Outputs
from concordant.core.recompute import same_context

Head = Callable[[Tensor], Tensor]  # (C, H) -> (C, V) logits, everything the architecture does after lm_head included
# (logits_CV, target_C, temperature, is entropy wanted) -> log-prob, entropy and ``top`` of the targets, each (C,)
Distribution = Callable[[Tensor, Tensor, float, bool], tuple[Tensor, Tensor, Tensor]]

CHUNK_ELEMENTS = 2**24  # logits a chunk holds: 64 MiB in fp32
KEPT_ELEMENTS = 2**26  # logits kept for the backward pass, 256 MiB; where there are more, all are made again


def distribution(
    logits_CV: Tensor, target_C: Tensor, temperature: float, entropy: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-prob of the target, entropy of the distribution, and whether the target is the most likely token, each (C,).

    In fp32, because a bf16 log-softmax is off by 1e-2 nats, more than a PPO ratio may be. ``entropy`` is for faster
    twins of this function, which leave the entropy out where nobody wants it.
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
) -> BranchOutputs:
    """What ``want`` asks of the next-token distributions softmax(head(hidden) / temperature).

    ``reference``: hidden states (N, H') and head of the model KL is measured from, needed when ``want.kl``.
    ``distribution``: the function above, or a faster one that gives the same numbers.
    """
    size = max(1, CHUNK_ELEMENTS // vocabulary)
    recompute = torch.is_grad_enabled() and hidden_NH.requires_grad and len(hidden_NH) * vocabulary > KEPT_ELEMENTS
    parts: list[tuple[Tensor | None, ...]] = []
    for at in range(0, max(len(hidden_NH), 1), size):
        chunk = slice(at, at + size)
        other = None if reference is None else (reference[0][chunk], reference[1])
        arguments = (hidden_NH[chunk], target_N[chunk], head, want, temperature, other, distribution)
        parts.append(
            checkpoint(_of_chunk, *arguments, use_reentrant=False, preserve_rng_state=False, context_fn=same_context)
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
    distribution: Distribution,
) -> tuple[Tensor | None, ...]:
    logits_CV = head(hidden_CH)
    logprob_C, entropy_C, top_C = distribution(logits_CV, target_C, temperature, want.entropy)
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


def _join(columns: tuple[Tensor | None, ...]) -> Tensor | None:
    kept = [c for c in columns if c is not None]
    return torch.cat(kept) if kept else None
