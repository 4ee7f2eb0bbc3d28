"""The DPO loss (Rafailov et al. 2023, arXiv:2305.18290, equation 7)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def dpo_loss(
    policy_chosen_P: Tensor,
    policy_rejected_P: Tensor,
    reference_chosen_P: Tensor,
    reference_rejected_P: Tensor,
    beta: float = 0.1,
) -> Tensor:
    """The mean over pairs of -log σ(β · (log-ratio of chosen - log-ratio of rejected)), in nats."""
    chosen_P = policy_chosen_P - reference_chosen_P
    rejected_P = policy_rejected_P - reference_rejected_P
    return -F.logsigmoid(beta * (chosen_P - rejected_P)).mean()
