"""Logical shards: the parts of a batch that are computed apart and summed in one fixed order.

Floating-point addition is not associative, so a sum depends on its order. Shards depend on the batch alone, and their
gradients are summed in one binary tree: ((0 + 1) + (2 + 3)) for four shards. So one process and several processes, each
with some of the shards, compute the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import torch
from torch import Tensor

from concordant.core.errors import UserError
from concordant.core.objective import BranchOutputs
from concordant.core.trees import PromptTree, TreeBatch

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Shard:
    """Some of the caller's trees, with the caller's numbers of their response tokens, branches and trees."""

    trees: list[PromptTree]
    token_N: Tensor  # int64
    branch_B: Tensor  # int64
    tree_T: Tensor  # int64, T trees

    def numbered(self, batch: TreeBatch) -> TreeBatch:
        """``batch``, which was laid out from ``trees``, with the numbers of the caller's whole batch."""
        return replace(
            batch,
            token_N=self.token_N[batch.token_N],
            caller_B=self.branch_B[batch.caller_B],
            tree_B=self.tree_T[batch.tree_B],
        )


def share(sizes: Sequence[int], shards: int) -> list[list[int]]:
    """Share out items of the given ``sizes``, so that the shards are about equally large. Returns the item numbers.

    The largest item goes first, each item to the shard with the least so far. A shard keeps the order of the items and
    may be empty.
    """
    totals = [0] * shards
    shares: list[list[int]] = [[] for _ in range(shards)]
    for item in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        least = min(range(shards), key=lambda s: (totals[s], s))
        totals[least] += sizes[item]
        shares[least].append(item)
    return [sorted(items) for items in shares]


def split(trees: Sequence[PromptTree], shards: int) -> list[Shard]:
    """Split a batch into ``shards`` parts of about equally many tokens. One shard is the whole batch."""
    return _taken(trees, share([tree.tokens for tree in trees], shards))


def smallest(trees: Sequence[PromptTree]) -> Shard:
    """The tree with the fewest tokens, as a shard of its own."""
    (shard,) = _taken(trees, [[min(range(len(trees)), key=lambda i: trees[i].tokens)]])
    return shard


def _taken(trees: Sequence[PromptTree], shares: Sequence[Sequence[int]]) -> list[Shard]:
    """A shard for each of ``shares``, which are numbers of trees."""
    lengths = [sum(b.response_length for b in tree.branches) for tree in trees]
    token_at, branch_at = _starts(lengths), _starts([len(tree.branches) for tree in trees])
    return [
        Shard(
            trees=[trees[i] for i in own],
            token_N=_ranges([(token_at[i], token_at[i + 1]) for i in own]),
            branch_B=_ranges([(branch_at[i], branch_at[i + 1]) for i in own]),
            tree_T=torch.tensor(own, dtype=torch.int64),
        )
        for own in shares
    ]


def joined(shards: Sequence[Shard], outputs: Sequence[BranchOutputs]) -> BranchOutputs:
    """The outputs of the whole batch, in the caller's order, from the outputs of its shards."""
    columns = {}
    for name in BranchOutputs.__slots__:
        found = [(s, getattr(out, name)) for s, out in zip(shards, outputs, strict=True)]
        found = [(s, column) for s, column in found if column is not None]
        if found:
            order = torch.cat([s.token_N if name.endswith("_N") else s.branch_B for s, _ in found])
            columns[name] = torch.cat([column for _, column in found])[order.argsort()]
    return BranchOutputs(**columns)


def _starts(lengths: Sequence[int]) -> list[int]:
    """Where each part starts if they stand one after another, and where the last one ends."""
    starts = [0]
    for length in lengths:
        starts.append(starts[-1] + length)
    return starts


def _ranges(spans: Sequence[tuple[int, int]]) -> Tensor:
    return torch.cat([torch.arange(0), *(torch.arange(start, stop) for start, stop in spans)])


class TreeSum(Generic[T]):
    """Sums values that come one after another, in a binary tree. It holds at most log₂(values) + 1 values at a time.

    Neighbours are added first: ((0 + 1) + (2 + 3)) + (4 + 5) for six values. ``plus`` may change its first argument.
    """

    def __init__(self, plus: Callable[[T, T], T]) -> None:
        self._plus = plus
        self._pending: list[tuple[int, T]] = []  # (level, sum of 2**level values), the highest level first

    def add(self, value: T) -> None:
        level = 0
        while self._pending and self._pending[-1][0] == level:
            value = self._plus(self._pending.pop()[1], value)
            level += 1
        self._pending.append((level, value))

    def total(self) -> T:
        """The sum of all values, of which there must be at least one."""
        value = self._pending[-1][1]
        for _, earlier in reversed(self._pending[:-1]):
            value = self._plus(earlier, value)
        return value


def tree_sum(values: Iterable[T], plus: Callable[[T, T], T]) -> T:
    """The sum of ``values`` in the order of ``TreeSum``."""
    adding = TreeSum(plus)
    for value in values:
        adding.add(value)
    return adding.total()


def shards_of_rank(shards: int, ranks: int, rank: int) -> range:
    """The numbers of the shards that ``rank`` computes.

    Every rank has equally many shards, and their number is a power of two. So the shards of a rank are a whole branch
    of the binary tree, and the sums of the ranks are added in the same tree as the shards themselves. One rank alone
    computes any number of shards. UserError for other numbers.
    """
    if ranks == 1:
        return range(shards)
    each, rest = divmod(shards, ranks)
    if rest or each.bit_count() != 1:
        fitting = [n for n in range(1, shards + 1) if n == 1 or (shards % n == 0 and (shards // n).bit_count() == 1)]
        raise UserError(
            f"cluster.shards={shards} cannot be computed by {ranks} workers with one fixed order of sums; "
            f"workers that fit: {', '.join(map(str, fitting))}"
        )
    return range(rank * each, (rank + 1) * each)
