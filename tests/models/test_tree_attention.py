"""Who sees whom, and that nothing else moves a number."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from concordant.core.trees import Branch, Layout, PromptTree, lay_out, micro_batches
from concordant.models.load import make_deterministic
from concordant.models.tree_attention import hidden_states, visible
from tests.models import zoo


def states(model: PreTrainedModel, trees: list[PromptTree], layout: Layout = Layout.TREE) -> list[Tensor]:
    """Hidden states that predict each branch's tokens."""
    batch = lay_out(trees, layout)
    with torch.no_grad():
        flat = hidden_states(model, batch, layout).flatten(0, 1)
    return [flat[batch.source_N[batch.branch_N == b]] for b in batch.caller_B.argsort()]


def tree(*lengths: int, trunk: int = 5, seed: int = 0) -> PromptTree:
    branches = tuple(Branch.response(zoo.tokens(n, seed + 10 * i + n)) for i, n in enumerate(lengths))
    return PromptTree(zoo.tokens(trunk, seed + 1), branches)


def test_visible_by_hand() -> None:
    """Trunk a b, branches c d and e: e sees a b e, not c d; with a window of 2, d sees c d, e sees b e."""
    batch = lay_out([PromptTree(torch.tensor([3, 4]), (Branch.response([5, 6]), Branch.response([7])))])
    rows = ["a....", "ab...", "abc..", "abcd.", "ab..e"]
    assert ["".join(c if s else "." for c, s in zip("abcde", r, strict=True)) for r in visible(batch)[0]] == rows
    narrow = ["a....", "ab...", ".bc..", "..cd.", ".b..e"]
    assert ["".join(c if s else "." for c, s in zip("abcde", r, strict=True)) for r in visible(batch, 2)[0]] == narrow


@pytest.mark.parametrize("name", ["Llama", "Gemma 2", "Gemma 3", "GPT-J"])
def test_a_branch_cannot_see_its_sibling(name: str) -> None:
    model = zoo.make(name).eval()
    one, other = tree(6, 6), tree(6, 6)
    other = PromptTree(one.prompt_T, (one.branches[0], Branch.response(zoo.tokens(6, 99))))
    assert torch.equal(states(model, [one])[0], states(model, [other])[0])
    assert not torch.equal(states(model, [one])[1], states(model, [other])[1])


@pytest.mark.parametrize("layout", Layout)
def test_a_tree_in_another_row_changes_no_bit(layout: Layout) -> None:
    model = zoo.make("Llama").eval()
    mine, before, after = tree(6), tree(6, seed=50), tree(6, seed=70)
    batches = [micro_batches([mine, mate], layout, max_tokens=10**6, row_tokens=1)[0] for mate in (before, after)]
    assert batches[0].ids_RL.shape[0] == 2
    with torch.no_grad():
        one, other = (hidden_states(model, b, layout)[0] for b in batches)
    assert torch.equal(one, other)


def test_a_tree_in_the_same_row_changes_nothing() -> None:
    model = zoo.make("Llama").eval()
    mine = tree(6, 4)
    alone, packed, other = (states(model, t)[:2] for t in ([mine], [mine, tree(9, seed=50)], [mine, tree(9, seed=70)]))
    for a, b, c in zip(alone, packed, other, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(b, c, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["GPT-2", "OPT", "BLOOM", "Mamba"])
def test_batch_equals_single_rows(name: str) -> None:
    """Absolute positions with left padding moved GPT-2 by 34 nats elsewhere."""
    model = zoo.make(name).eval()
    many = [tree(n, trunk=t, seed=n) for n, t in ((2, 9), (12, 3), (5, 5))]
    together = states(model, many, Layout.FLAT)
    for i, one in enumerate(many):
        torch.testing.assert_close(states(model, [one], Layout.FLAT)[0], together[i], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["Llama", "Gemma 2", "GPT-2", "Mixtral"])
def test_padding_gives_no_nan_forward_or_backward(name: str) -> None:
    model = zoo.make(name)
    hidden = hidden_states(model, lay_out([tree(30), tree(2)]), Layout.TREE)
    hidden.sum().backward()
    assert hidden.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", ["GPT-2", "OPT", "GPT-J", "Mixtral", "Falcon"])
def test_two_calls_in_train_mode_give_the_same_numbers(name: str) -> None:
    model = zoo.make(name).train()
    make_deterministic(model)
    assert torch.equal(states(model, zoo.trees())[0], states(model, zoo.trees())[0])
