"""Log-probability, entropy and exact KL of response tokens from hidden states, in chunks.

Logits of shape (tokens, vocabulary) never exist for the whole batch: a chunk's are made, reduced and, where a
gradient is wanted, made again in the backward pass.

N response tokens, C tokens of a chunk, H hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from concordant.core import kl
from concordant.core.objective import BranchOutputs, Outputs

Head = Callable[[Tensor], Tensor]  # (C, H) -> (C, V) logits, everything the architecture does after lm_head included

CHUNK_ELEMENTS = 2**24  # logits a chunk holds: 64 MiB in fp32


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
    recompute = torch.is_grad_enabled() and hidden_NH.requires_grad and len(hidden_NH) > size
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
    # fp32: a bf16 log-softmax is off by 1e-2 nats, more than a PPO ratio may be.
    logits_CV = head(hidden_CH).float()
    if temperature != 1.0:
        logits_CV = logits_CV / temperature
    normaliser_C = logits_CV.logsumexp(-1)
    taken_C = logits_CV.gather(-1, target_C[:, None]).squeeze(-1)
    top_C = entropy_C = kl_C = None
    if want.top:
        top_C = (taken_C >= logits_CV.detach().amax(-1)).float()
    if want.entropy:
        # H = log Z - E[logit]: one exponential over the vocabulary, and no 0 · -inf.
        probability_CV = (logits_CV - normaliser_C[:, None]).exp()
        entropy_C = normaliser_C - (probability_CV * logits_CV).sum(-1)
    if want.kl:
        if reference is None:
            raise ValueError("want.kl needs a reference")
        with torch.no_grad():
            reference_CV = reference[1](reference[0]).float() / temperature
        kl_C = kl.exact(logits_CV, reference_CV)
    return (taken_C - normaliser_C if want.logprob else None), top_C, entropy_C, kl_C


def _join(columns: tuple[Tensor | None, ...]) -> Tensor | None:
    kept = [c for c in columns if c is not None]
    return torch.cat(kept) if kept else None
