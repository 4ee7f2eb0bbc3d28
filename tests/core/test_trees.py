import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from concordant.core.trees import Branch, Layout, PromptTree, lay_out, micro_batches, packed_batches

lengths = st.integers(1, 9)
masked_branches = st.lists(st.lists(st.booleans(), min_size=1, max_size=6), min_size=1, max_size=4)
trees_of_lengths = st.lists(st.tuples(lengths, st.lists(lengths, min_size=1, max_size=4)), min_size=1, max_size=8)


def make(shapes):
    """Every token of every tree is a different id, so that nothing can be mistaken for something else."""
    ids = iter(range(1, 10_000))

    def take(n):
        return torch.tensor([next(ids) for _ in range(n)])

    return [PromptTree(take(p), tuple(Branch.response(take(b)) for b in branches)) for p, branches in shapes]


@settings(deadline=None, max_examples=60)
@given(trees_of_lengths, st.sampled_from(Layout), st.integers(1, 60))
def test_every_token_once_in_its_place_however_cut(shapes, layout, max_tokens):
    trees = make(shapes)
    batches = micro_batches(trees, layout, max_tokens)
    tokens = [i for t in trees for b in t.branches for i in b.ids_T.tolist()]
    before = [([*t.prompt_T.tolist(), *b.ids_T.tolist()]) for t in trees for b in t.branches]
    predicted = {}
    for batch in batches:
        flat = batch.ids_RL.flatten()
        for source, target, number in zip(batch.source_N, batch.target_N, batch.token_N, strict=True):
            assert int(number) not in predicted
            predicted[int(number)] = (int(flat[source]), int(target))
        for last, caller in zip(batch.last_B, batch.caller_B, strict=True):
            assert int(flat[last]) == before[caller][-1]
    assert [predicted[i][1] for i in range(len(tokens))] == tokens
    pairs = {(a, b) for row in before for a, b in zip(row, row[1:], strict=False)}
    assert all(p in pairs for p in predicted.values())


@settings(deadline=None, max_examples=60)
@given(trees_of_lengths, st.sampled_from(Layout), st.integers(1, 60))
def test_a_tree_is_never_split_and_the_longest_comes_first(shapes, layout, max_tokens):
    batches = micro_batches(make(shapes), layout, max_tokens)
    seen = [set(b.tree_B.tolist()) for b in batches]
    assert sum(map(len, seen)) == len(shapes) == len(set().union(*seen))
    longest = max(t.tokens if layout is Layout.TREE else len(t.prompt_T) + max(len(b.ids_T) for b in t.branches)
                  for t in make(shapes))  # fmt: skip
    assert batches[0].ids_RL.shape[1] >= longest


@settings(deadline=None, max_examples=60)
@given(trees_of_lengths, st.integers(1, 60))
def test_tree_layout_computes_the_trunk_once_and_flat_once_a_branch(shapes, max_tokens):
    trees = make(shapes)
    for layout, count in ((Layout.TREE, lambda t: t.tokens), (Layout.FLAT, lambda t: t.flat_tokens)):
        laid = sum(int(b.is_token_RL.sum()) for b in micro_batches(trees, layout, max_tokens))
        assert laid == sum(map(count, trees))


@settings(deadline=None, max_examples=60)
@given(trees_of_lengths, st.integers(1, 60))
def test_packed_batches_are_one_row_each_within_the_limit_and_even(shapes, max_tokens):
    trees = make(shapes)
    batches = packed_batches(trees, max_tokens)
    sizes = [b.ids_RL.numel() for b in batches]
    longest, total = max(t.tokens for t in trees), sum(t.tokens for t in trees)
    assert all(b.ids_RL.shape[0] == 1 and bool(b.is_token_RL.all()) for b in batches)
    assert sum(sizes) == total
    assert sorted(n for b in batches for n in b.tree_B.unique().tolist()) == list(range(len(trees)))
    assert all(size <= max_tokens or len(b.tree_B.unique()) == 1 for size, b in zip(sizes, batches, strict=True))
    if total <= max_tokens:
        assert len(batches) == 1
    if longest <= max_tokens:  # none is fuller than its share of as few as there can be, by a tree at most
        assert max(sizes) < total / -(-total // max_tokens) + longest
    assert batches[0].tree_B[0] == max(range(len(trees)), key=lambda i: trees[i].tokens)


def test_packed_batches_by_hand():
    trees = make([(3, [1]), (8, [2]), (4, [2, 1]), (5, [1])])  # 4, 10, 7 and 6 tokens
    assert [b.tree_B.unique().tolist() for b in packed_batches(trees, 20)] == [[1, 2], [0, 3]]
    assert [b.tree_B.unique().tolist() for b in packed_batches(trees, 27)] == [[0, 1, 2, 3]]
    assert [b.tree_B.unique().tolist() for b in packed_batches(trees, 9)] == [[1], [2], [3], [0]]


def test_positions_restart_at_the_trunks_end():
    batch = lay_out([PromptTree(torch.arange(3), (Branch.response([7, 8]), Branch.response([9])))])
    assert batch.position_RL.tolist() == [[0, 1, 2, 3, 4, 3]]
    assert batch.branch_RL.tolist() == [[-1, -1, -1, 0, 0, 1]]
    assert batch.source_N.tolist() == [2, 3, 2]


def test_user_turns_inside_a_branch_are_no_response_tokens():
    branch = Branch(torch.tensor([5, 6, 7, 8]), torch.tensor([True, False, False, True]))
    batch = lay_out([PromptTree(torch.tensor([1, 2]), (branch,))])
    assert batch.target_N.tolist() == [5, 8]
    assert batch.source_N.tolist() == [1, 4]


def test_without_packing_every_tree_has_its_own_row():
    batch = micro_batches(make([(9, [3]), (2, [1]), (1, [1])]), Layout.TREE, 10**6, row_tokens=0)[0]
    assert batch.ids_RL.shape == (3, 12)


def test_short_flat_rows_are_not_padded_to_the_longest():
    """An encoder's batch of real lengths: nearly all that is computed is tokens."""
    trees = make([(prompt, [9, 3]) for prompt in [500, 480] + [12] * 60])
    batches = micro_batches(trees, Layout.FLAT, max_tokens=10**6)
    laid, real = sum(b.ids_RL.numel() for b in batches), sum(int(b.is_token_RL.sum()) for b in batches)
    assert real > 0.8 * laid
    assert len(batches) == 2  # and calls are few


@settings(deadline=None, max_examples=60)
@given(st.lists(masked_branches, min_size=1, max_size=5), st.sampled_from(Layout), st.integers(1, 40))
def test_only_response_tokens_are_numbered_whatever_is_masked(masks, layout, max_tokens):
    """Turns of the user inside a branch have ids and no number; numbers go on from branch to branch without a gap."""
    ids = iter(range(1, 10_000))
    trees = [
        PromptTree(
            torch.tensor([next(ids)]),
            tuple(Branch(torch.tensor([next(ids) for _ in mask]), torch.tensor(mask)) for mask in tree),
        )
        for tree in masks
    ]
    learnt = [int(i) for t in trees for b in t.branches for i in b.ids_T[b.is_response_T]]
    numbered = {}
    for batch in micro_batches(trees, layout, max_tokens):
        numbered |= dict(zip(batch.token_N.tolist(), batch.target_N.tolist(), strict=True))
    assert [numbered[i] for i in range(len(learnt))] == learnt and len(numbered) == len(learnt)
