"""Prompt trees: a prompt is computed once, however many responses it has.

A tree is a trunk (the prompt's tokens) and one or more branches (responses that continue the trunk). ``lay_out`` puts
trees into rows. For every response token it gives the position whose hidden state predicts the token. All algorithms
use these rows (docs/architecture.md, "Prompt trees").
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from enum import StrEnum

import numpy as np
import torch
from torch import Tensor

from concordant.core.transfer import to_device

# Length of a row that short trees share. Attention is dense in a row, so much longer rows would cost more than padding.
ROW_TOKENS = 128


@dataclass(frozen=True, slots=True)
class Branch:
    """One continuation of a trunk. Multi-turn dialogues have user turns inside a branch."""

    ids_T: Tensor  # int64 token ids
    is_response_T: Tensor  # bool, True for a token that the policy chose, end-of-turn and EOS tokens included

    @staticmethod
    def response(ids: Sequence[int] | Tensor) -> Branch:
        """A branch whose tokens were all chosen by the policy."""
        ids_T = torch.as_tensor(ids, dtype=torch.int64)
        return Branch(ids_T, torch.ones(len(ids_T), dtype=torch.bool))

    @property
    def response_length(self) -> int:
        return int(np.count_nonzero(self.is_response_T.numpy()))


@dataclass(frozen=True, slots=True)
class PromptTree:
    """A trunk of at least one token and at least one branch of at least one token."""

    prompt_T: Tensor  # int64 token ids
    branches: tuple[Branch, ...]

    @property
    def tokens(self) -> int:
        """The tokens that a tree layout computes: the trunk is computed once."""
        return len(self.prompt_T) + sum(len(b.ids_T) for b in self.branches)

    @property
    def flat_tokens(self) -> int:
        """The tokens that a flat layout computes: the trunk is computed once for each branch."""
        return sum(len(self.prompt_T) + len(b.ids_T) for b in self.branches)


class Layout(StrEnum):
    TREE = "tree"  # branches share one trunk; the model's attention must follow the given positions and masks
    FLAT = "flat"  # each branch has its own row and its own copy of the trunk; exact for every architecture


@dataclass(frozen=True, slots=True)
class TreeBatch:
    """Trees laid in rows. The positions of every branch start again after the trunk's last position.

    Token q attends to token k of its row if both belong to one tree, k is not later than q, and k belongs to the trunk
    or to the branch of q.
    """

    ids_RL: Tensor  # int64; 0 where there is no token
    position_RL: Tensor  # int64, distance from the start of the dialogue
    tree_RL: Tensor  # int64 number of the tree in this batch, -1 where there is no token
    branch_RL: Tensor  # int64 number of the branch in this batch, -1 for the trunk and where there is no token
    source_N: Tensor  # int64 index, in the flattened rows, of the position that predicts the response token
    target_N: Tensor  # int64 id of the response token
    branch_N: Tensor  # int64 number of the response token's branch in this batch
    last_B: Tensor  # int64 index, in the flattened rows, of the branch's last token
    token_N: Tensor  # int64 number of the response token in the order of the caller's trees
    caller_B: Tensor  # int64 number of the branch in the order of the caller's trees
    tree_B: Tensor  # int64 number of the branch's tree in the caller's order; a tree is never split between batches

    @property
    def branches(self) -> int:
        return len(self.last_B)

    @property
    def length_B(self) -> Tensor:
        """Response tokens of each branch, int64."""
        # ``bincount`` would make the processor wait for a GPU, because the size of its result depends on the numbers.
        counts_B = torch.zeros(self.branches, dtype=torch.int64, device=self.branch_N.device)
        return counts_B.index_add_(0, self.branch_N, torch.ones_like(self.branch_N))

    @property
    def is_token_RL(self) -> Tensor:
        """True where there is a token."""
        return self.tree_RL >= 0

    def sum_by_branch(self, x_N: Tensor) -> Tensor:
        """The sum of ``x_N`` over each branch's response tokens, shape (B,)."""
        return torch.zeros(self.branches, dtype=x_N.dtype, device=x_N.device).index_add(0, self.branch_N, x_N)

    def to(self, device: torch.device | str) -> TreeBatch:
        return replace(self, **{f.name: to_device(getattr(self, f.name), device) for f in fields(self)})


@dataclass(frozen=True, slots=True)
class _Placed:
    """A tree with its number and its first branch and token in the caller's order."""

    tree: PromptTree
    number: int
    first_branch: int
    first_token: int

    def one_a_branch(self) -> list[_Placed]:
        """One tree for each branch, with the numbers that the branch has in this tree."""
        placed, branch, token = [], self.first_branch, self.first_token
        for b in self.tree.branches:
            placed.append(_Placed(PromptTree(self.tree.prompt_T, (b,)), self.number, branch, token))
            branch, token = branch + 1, token + b.response_length
        return placed

    def blocks(self, layout: Layout) -> list[_Placed]:
        """The trees to lay in rows: this tree, or with a flat layout one tree for each branch."""
        return [self] if layout is Layout.TREE else self.one_a_branch()


def _place(trees: Sequence[PromptTree]) -> list[_Placed]:
    placed, branch, token = [], 0, 0
    for number, tree in enumerate(trees):
        placed.append(_Placed(tree, number, branch, token))
        branch += len(tree.branches)
        token += sum(b.response_length for b in tree.branches)
    return placed


_ENOUGH_TOKENS = 1024  # a flat batch of so many tokens (rows × length) keeps the cores busy, so it may end
_LIKE_LENGTH = 0.8  # a row at least so long, relative to the longest row of its flat batch, is of like length


def micro_batches(
    trees: Sequence[PromptTree], layout: Layout, max_tokens: int, row_tokens: int = ROW_TOKENS
) -> list[TreeBatch]:
    """Lay ``trees`` in batches of at most ``max_tokens`` (rows × length). A batch holds at least one whole tree.

    Longer trees come first, so that the first batch needs the most memory and the rows of a batch are of like length.
    With ``Layout.TREE``, short trees share a row of up to ``row_tokens`` tokens. A longer tree has a row of its own; if
    ``row_tokens`` is 0, every tree has one. With ``Layout.FLAT``, a row holds one branch, and a batch that is large
    enough ends before much shorter rows, which would need padding.
    """
    units = [p.blocks(layout) for p in _place(trees)]
    shares_rows = layout is Layout.TREE and row_tokens > 0
    units.sort(key=lambda unit: (-max(p.tree.tokens for p in unit), unit[0].number))
    batches: list[list[list[_Placed]]] = []
    rows: list[list[_Placed]] = []
    free: list[int] = []  # tokens left in each row
    length = 0
    for unit in units:
        size = max(p.tree.tokens for p in unit)
        fit = next((i for i, left in enumerate(free) if left >= size), None) if shares_rows else None
        if fit is not None:
            rows[fit] += unit
            free[fit] -= size
            continue
        full = (len(rows) + len(unit)) * length > max_tokens
        ragged = layout is Layout.FLAT and len(rows) * length >= _ENOUGH_TOKENS and size < _LIKE_LENGTH * length
        if rows and (full or ragged):
            batches.append(rows)
            rows, free = [], []
        if not rows:
            length = max(size, min(row_tokens, max_tokens)) if shares_rows else size
        rows += [[p] for p in unit]
        free += [length - p.tree.tokens for p in unit]
    if rows:
        batches.append(rows)
    return [_lay_rows(rows) for rows in batches]


def packed_batches(trees: Sequence[PromptTree], max_tokens: int) -> list[TreeBatch]:
    """Lay ``trees`` one after another in batches of one row each, of at most ``max_tokens`` tokens or one whole tree.

    This layout is for a model that computes attention for each tree apart, so that a long row costs nothing extra.
    There are as few batches as possible, and they are about equally long: a short batch costs more time for each token,
    and a full one more memory. Longer trees come first.
    """
    placed = sorted(_place(trees), key=lambda p: (-p.tree.tokens, p.number))
    total = sum(p.tree.tokens for p in placed)
    share = total / max(1, math.ceil(total / max_tokens))
    rows: list[list[_Placed]] = []
    tokens = math.inf  # of the last row
    for p in placed:
        if tokens >= share or tokens + p.tree.tokens > max_tokens:
            rows.append([])
            tokens = 0
        rows[-1].append(p)
        tokens += p.tree.tokens
    return [_lay_rows([row]) for row in rows]


def lay_out(trees: Sequence[PromptTree], layout: Layout = Layout.TREE) -> TreeBatch:
    """All trees in one batch."""
    (batch,) = micro_batches(trees, layout, max_tokens=2**62)
    return batch


def _lay_rows(rows: list[list[_Placed]]) -> TreeBatch:
    """The ``TreeBatch`` with these trees in each row.

    The code uses NumPy: tensor operations for every branch would cost more than a small model's forward pass.
    """
    length = max(sum(p.tree.tokens for p in row) for row in rows)
    shape = (len(rows), length)
    ids, position = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    tree_of, branch_of = np.full(shape, -1), np.full(shape, -1)
    count = np.arange(length + 1)  # all positions; slices of this array save new ones
    source, target, branch_n, token_n = [], [], [], []
    last, caller, caller_tree, blocks, branches = [], [], [], 0, 0
    for r, row in enumerate(rows):
        at = 0
        for p in row:
            trunk = len(p.tree.prompt_T)
            ids[r, at : at + trunk] = p.tree.prompt_T.numpy()
            position[r, at : at + trunk] = count[:trunk]
            tree_of[r, at : at + p.tree.tokens] = blocks
            trunk_end = at + trunk - 1
            at, token = at + trunk, p.first_token
            for i, b in enumerate(p.tree.branches):
                t, is_response_T = len(b.ids_T), b.is_response_T.numpy()
                ids[r, at : at + t] = b.ids_T.numpy()
                position[r, at : at + t] = count[:t] + trunk
                branch_of[r, at : at + t] = branches
                here = count[at - 1 : at + t - 1].copy()
                here[0] = trunk_end  # the trunk's last token predicts the first token of every branch
                source.append(here[is_response_T] + r * length)
                target.append(ids[r, at : at + t][is_response_T])
                responses = len(target[-1])
                branch_n.append(np.full(responses, branches))
                token_n.append(np.arange(token, token + responses))
                last.append(r * length + at + t - 1)
                caller.append(p.first_branch + i)
                caller_tree.append(p.number)
                at, token, branches = at + t, token + responses, branches + 1
            blocks += 1
    per_token = [np.concatenate(column) for column in (source, target, branch_n)]
    laid = (ids, position, tree_of, branch_of, *per_token, np.array(last), np.concatenate(token_n))
    return TreeBatch(*map(torch.from_numpy, (*laid, np.array(caller), np.array(caller_tree))))
