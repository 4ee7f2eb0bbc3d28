"""The Bradley–Terry loss of a reward model: -log σ(r_chosen - r_rejected)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def compute_preference_loss(chosen_P: Tensor, rejected_P: Tensor) -> tuple[Tensor, float]:
    """The mean loss over the pairs, in nats, and the accuracy. A pair with equal scores counts half."""
    loss = -F.logsigmoid(chosen_P - rejected_P).mean()
    right, equal = (chosen_P > rejected_P).float(), (chosen_P == rejected_P).float()
    return loss, float((right + 0.5 * equal).mean())
