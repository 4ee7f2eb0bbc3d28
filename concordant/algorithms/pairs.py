"""Pairs as trees of two branches. The first branch is the chosen response."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from concordant.core.errors import UserError
from concordant.core.trees import PromptTree, TreeBatch


def check_pairs(trees: Sequence[PromptTree]) -> None:
    if any(len(t.branches) != 2 for t in trees):
        raise UserError("a preference objective needs trees of exactly two branches: chosen, rejected")


def sides(batch: TreeBatch) -> tuple[Tensor, Tensor, Tensor]:
    """(chosen_P, rejected_P, pair_P): each pair's branches in this batch, and its number in the caller's order.

    ``check_pairs`` makes sure that every tree has two branches. So, in the caller's order, chosen branches have even
    numbers and rejected branches odd ones.
    """
    order_B = torch.argsort(batch.caller_B)
    chosen_P, rejected_P = order_B[0::2], order_B[1::2]
    return chosen_P, rejected_P, batch.tree_B[chosen_P]


def ranked_right(difference_P: Tensor) -> Tensor:
    """How many pairs are ranked as people ranked them (difference above 0), as a scalar; a tie counts half."""
    return (difference_P > 0).float().sum() + 0.5 * (difference_P == 0).float().sum()
