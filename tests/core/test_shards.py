"""Shards: a batch's parts, the fixed order of their sums, and which rank computes which."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from concordant.core.errors import UserError
from concordant.core.objective import BranchOutputs
from concordant.core.shards import TreeSum, joined, shards_of_rank, share, smallest, split, tree_sum
from concordant.core.trees import Branch, Layout, PromptTree, lay_out


def spelled(a, b):
    """A sum that shows its order."""
    return f"({a}+{b})"


def trees(sizes):
    """Trees of a prompt of two tokens and, for each of ``sizes``, branches of so many tokens."""
    return [PromptTree(torch.tensor([1, 2]), tuple(Branch.response([7] * n) for n in branches)) for branches in sizes]


def test_the_order_of_a_sum_is_that_of_a_binary_tree():
    assert tree_sum("0123", spelled) == "((0+1)+(2+3))"
    assert tree_sum("012345", spelled) == "(((0+1)+(2+3))+(4+5))"
    assert tree_sum("0", spelled) == "0"


@given(st.integers(1, 5), st.integers(0, 3))
def test_ranks_add_in_the_order_of_one_process(ranks, level):
    shards = ranks * 2**level
    parts = [tree_sum([str(s) for s in shards_of_rank(shards, ranks, rank)], spelled) for rank in range(ranks)]
    assert tree_sum(parts, spelled) == tree_sum([str(s) for s in range(shards)], spelled)


def test_few_values_wait_to_be_added():
    adding = TreeSum(lambda a, b: a + b)
    for value in range(1000):
        adding.add(value)
        assert len(adding._pending) <= 10
    assert adding.total() == sum(range(1000))


def test_workers_that_do_not_fit_are_refused_and_those_that_fit_are_named():
    with pytest.raises(UserError, match="workers that fit: 1, 3, 6"):
        shards_of_rank(6, 4, 0)
    with pytest.raises(UserError, match="workers that fit: 1, 2, 4"):
        shards_of_rank(4, 8, 0)
    assert list(shards_of_rank(6, 3, 1)) == [2, 3]
    assert list(shards_of_rank(6, 1, 0)) == [0, 1, 2, 3, 4, 5]


def test_items_go_largest_first_to_the_shard_with_the_least():
    assert share([5, 3, 3, 2, 2, 1], 2) == [[0, 3, 5], [1, 2, 4]]  # 5+2+1 and 3+3+2
    assert share([4], 3) == [[0], [], []]


@given(st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=3), min_size=1, max_size=9), st.integers(1, 5))
def test_every_token_and_branch_is_in_one_shard_under_its_own_number(sizes, shards):
    whole = lay_out(trees(sizes), Layout.FLAT)
    parts = [
        (shard, shard.numbered(lay_out(shard.trees, Layout.FLAT)))
        for shard in split(trees(sizes), shards)
        if shard.trees
    ]
    for name in ("token_N", "caller_B"):
        assert sorted(torch.cat([getattr(b, name) for _, b in parts]).tolist()) == sorted(getattr(whole, name).tolist())
    length_of = dict(zip(whole.caller_B.tolist(), whole.length_B.tolist(), strict=True))
    for _, batch in parts:
        assert [length_of[i] for i in batch.caller_B.tolist()] == batch.length_B.tolist()
        for i, tree in zip(batch.caller_B.tolist(), batch.tree_B.tolist(), strict=True):
            assert sum(len(s) for s in sizes[:tree]) <= i < sum(len(s) for s in sizes[: tree + 1])


def test_outputs_of_shards_come_back_in_the_callers_order():
    sizes = [[3], [1, 2], [4], [1]]
    shards = split(trees(sizes), 3)
    outputs = [BranchOutputs(logprob_N=s.token_N.float(), score_B=s.branch_B.float()) for s in shards]
    whole = joined(shards, outputs)
    assert whole.logprob_N.tolist() == list(range(11)) and whole.score_B.tolist() == list(range(5))
    assert whole.value_N is None


def test_the_smallest_tree_keeps_its_numbers_in_the_batch():
    shard = smallest(trees([[3], [6, 2], [1], [4]]))
    assert (shard.tree_T.tolist(), shard.branch_B.tolist(), shard.token_N.tolist()) == ([2], [3], [11])
