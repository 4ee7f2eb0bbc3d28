"""AdamW over what a rank holds of the trained weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from concordant.config.train import TrainConfig

ADAM_MOMENTS = 2  # numbers that AdamW keeps for each weight


def adamw(parameters: Sequence[Tensor], config: TrainConfig) -> torch.optim.AdamW:
    """AdamW without weight decay on vectors (norms, biases), where decay does not regularise."""
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=True)
