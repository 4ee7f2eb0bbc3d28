"""Prompt trees: a prompt is computed once, however many responses hang on it.

A tree is a trunk (the prompt's tokens) and one or more branches (responses that continue it).
``lay_out`` puts trees into rows and says, for every response token, where the hidden state that
predicts it stands; all algorithms use this one path (docs/architecture.md, "Prompt trees").

R rows, L row length, N response tokens, B branches, P prompt tokens, T tokens of one branch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from enum import StrEnum

import numpy as np
import torch
from torch import Tensor

# Tokens of a row that short trees share: attention is dense within a row, so much longer ones cost more than padding.
ROW_TOKENS = 128


@dataclass(frozen=True, slots=True)
class Branch:
    """One continuation of a trunk. Multi-turn dialogues have user turns inside a branch."""

    ids_T: Tensor  # int64 token ids
    is_response_T: Tensor  # bool, True where the policy chose the token, end-of-turn/EOS included

    @staticmethod
    def response(ids: Sequence[int] | Tensor) -> Branch:
        """A branch whose every token is the policy's own."""
        ids_T = torch.as_tensor(ids, dtype=torch.int64)
        return Branch(ids_T, torch.ones(len(ids_T), dtype=torch.bool))

    @property
    def response_length(self) -> int:
        return int(np.count_nonzero(self.is_response_T.numpy()))


@dataclass(frozen=True, slots=True)
class PromptTree:
    """A trunk of at least one token and at least one branch of at least one token."""

    prompt_P: Tensor  # int64 token ids
    branches: tuple[Branch, ...]

    @property
    def tokens(self) -> int:
        """Tokens a tree layout computes: the trunk once."""
        return len(self.prompt_P) + sum(len(b.ids_T) for b in self.branches)

    @property
    def flat_tokens(self) -> int:
        """Tokens a flat layout computes: the trunk once a branch."""
        return sum(len(self.prompt_P) + len(b.ids_T) for b in self.branches)


class Layout(StrEnum):
    TREE = "tree"  # branches share the trunk's computation; needs attention that honours positions and masks
    FLAT = "flat"  # each branch on its own row with its own copy of the trunk; exact for every architecture


@dataclass(frozen=True, slots=True)
class TreeBatch:
    """Trees laid in rows. Positions restart at the trunk's end for every branch.

    Token q may see token k of its row when both belong to one tree, k is not later, and k is trunk or of q's branch.
    """

    ids_RL: Tensor  # int64; 0 where there is no token
    position_RL: Tensor  # int64, distance from the start of the dialogue
    tree_RL: Tensor  # int64 number of the tree in this batch, -1 where there is no token
    branch_RL: Tensor  # int64 number of the branch in this batch, -1 for trunk and for no token
    source_N: Tensor  # int64 index into the flattened rows of the position that predicts the response token
    target_N: Tensor  # int64 id of the response token
    branch_N: Tensor  # int64 number of the response token's branch in this batch
    last_B: Tensor  # int64 index into the flattened rows of the branch's last token
    token_N: Tensor  # int64 number of the response token in the order of the caller's trees
    caller_B: Tensor  # int64 number of the branch in the order of the caller's trees
    tree_B: Tensor  # int64 number of the branch's tree in the caller's order; a tree is never split between batches

    @property
    def branches(self) -> int:
        return len(self.last_B)

    @property
    def length_B(self) -> Tensor:
        """Response tokens of each branch, int64."""
        return torch.bincount(self.branch_N, minlength=self.branches)

    @property
    def is_token_RL(self) -> Tensor:
        """True where there is a token."""
        return self.tree_RL >= 0

    def sum_by_branch(self, x_N: Tensor) -> Tensor:
        """Sum of per-token numbers over each branch's response tokens, shape (B,)."""
        return torch.zeros(self.branches, dtype=x_N.dtype, device=x_N.device).index_add(0, self.branch_N, x_N)

    def to(self, device: torch.device | str) -> TreeBatch:
        return replace(self, **{f.name: getattr(self, f.name).to(device) for f in fields(self)})


@dataclass(frozen=True, slots=True)
class _Placed:
    """A tree with its numbers in the caller's order."""

    tree: PromptTree
    number: int
    first_branch: int
    first_token: int

    def one_a_branch(self) -> list[_Placed]:
        """The same tree as one single-branch tree a branch, numbers kept."""
        placed, branch, token = [], self.first_branch, self.first_token
        for b in self.tree.branches:
            placed.append(_Placed(PromptTree(self.tree.prompt_P, (b,)), self.number, branch, token))
            branch, token = branch + 1, token + b.response_length
        return placed

    def blocks(self, layout: Layout) -> list[_Placed]:
        """The pieces that stand on a row each: the tree, or its branches apart."""
        return [self] if layout is Layout.TREE else self.one_a_branch()


def _place(trees: Sequence[PromptTree]) -> list[_Placed]:
    placed, branch, token = [], 0, 0
    for number, tree in enumerate(trees):
        placed.append(_Placed(tree, number, branch, token))
        branch += len(tree.branches)
        token += sum(b.response_length for b in tree.branches)
    return placed


_ENOUGH_TOKENS = 1024  # rows × length of a flat batch that keeps the cores busy, so that another may begin
_LIKE_LENGTH = 0.8  # of the longest flat row, which a row beside it should have at least


def micro_batches(
    trees: Sequence[PromptTree], layout: Layout, max_tokens: int, row_tokens: int = ROW_TOKENS
) -> list[TreeBatch]:
    """Lay ``trees`` in batches of at most ``max_tokens`` (rows × length), one whole tree at least.

    Trees are taken longest first, so that the batch that needs most memory comes first and rows of a
    batch are of like length. With ``Layout.TREE`` short trees share a row of up to ``row_tokens``
    tokens; a longer tree has a row of its own, and every tree where ``row_tokens`` is 0. A flat row holds one branch,
    and a batch of them ends where shorter ones begin, which it would pad.
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
    """Lay ``trees`` behind one another, in one row a batch of at most ``max_tokens`` tokens, one whole tree at least.

    For a model that attends each tree alone, so that a row costs no more for being long. As few batches as there can
    be and about even, longest trees first: a small one would cost more a token, and a full one more memory.
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
    """One ``TreeBatch`` of rows whose trees are given. NumPy, because a tensor operation a branch would cost more
    than a small model's forward pass."""
    length = max(sum(p.tree.tokens for p in row) for row in rows)
    shape = (len(rows), length)
    ids, position = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    tree_of, branch_of = np.full(shape, -1), np.full(shape, -1)
    count = np.arange(length + 1)  # positions, sliced instead of made anew
    source, target, branch_n, token_n = [], [], [], []
    last, caller, caller_tree, blocks, branches = [], [], [], 0, 0
    for r, row in enumerate(rows):
        at = 0
        for p in row:
            trunk = len(p.tree.prompt_P)
            ids[r, at : at + trunk] = p.tree.prompt_P.numpy()
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
                here[0] = trunk_end  # the first token of every branch is predicted by the trunk's last
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
