"""Exercise 5: the DPO loss. Then run: concordant course check 5 exercise_5.py"""

from __future__ import annotations

from torch import Tensor


def dpo_loss(
    policy_chosen_P: Tensor,
    policy_rejected_P: Tensor,
    reference_chosen_P: Tensor,
    reference_rejected_P: Tensor,
    beta: float = 0.1,
) -> Tensor:
    """The mean over pairs of -log σ(β · (log-ratio of chosen - log-ratio of rejected)), in nats.

    The log-ratio of a response is log π(response) - log π_ref(response). All arguments are log-probs, (P,).
    """
    raise NotImplementedError
