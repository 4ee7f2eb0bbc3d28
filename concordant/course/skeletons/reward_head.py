"""Exercise 2: a reward head. Then run: concordant course check 2 exercise_2.py"""

from __future__ import annotations

from torch import Tensor, nn


class RewardHead(nn.Module):
    """Maps the hidden state of each row's last token to a score."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        raise NotImplementedError("self.linear: hidden_size → 1, without bias")

    def forward(self, hidden_BTH: Tensor, is_token_BT: Tensor) -> Tensor:
        """Scores, (B,). ``is_token_BT`` is True for tokens and False for padding, on either side.

        B texts, T positions, H numbers of a hidden state.
        """
        raise NotImplementedError("find the last token of each row, then apply self.linear there")
