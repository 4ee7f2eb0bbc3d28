"""The log-probability of a response, which DPO compares between policy and reference."""

from __future__ import annotations

from torch import Tensor


def compute_log_probs(logits_BTV: Tensor, ids_BT: Tensor, is_response_BT: Tensor) -> Tensor:
    """The sum of the response tokens' log-probs, (B,), in nats. The logits at t predict the token at t + 1."""
    logprob_BTV = logits_BTV[:, :-1].log_softmax(-1)
    logprob_BT = logprob_BTV.gather(2, ids_BT[:, 1:, None]).squeeze(2)
    return (logprob_BT * is_response_BT[:, 1:]).sum(1)
