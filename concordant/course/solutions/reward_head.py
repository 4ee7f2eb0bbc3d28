"""A reward head: one number for each text, read at its last token."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RewardHead(nn.Module):
    """Maps the hidden state of each row's last token to a score."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_size, 1, bias=False)

    def forward(self, hidden_BTH: Tensor, is_token_BT: Tensor) -> Tensor:
        """Scores, (B,). ``is_token_BT`` is True for tokens and False for padding, on either side."""
        positions_T = torch.arange(hidden_BTH.shape[1])
        last_B = (is_token_BT * positions_T).argmax(dim=1)
        last_BH = hidden_BTH[torch.arange(len(hidden_BTH)), last_B]
        return self.linear(last_BH).squeeze(-1)
