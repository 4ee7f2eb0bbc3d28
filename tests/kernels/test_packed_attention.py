"""Trees attended segment by segment: the same numbers as with a mask over the row, and no more work than needed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from concordant.core.trees import Branch, Layout, PromptTree, lay_out
from concordant.kernels import attention, packed_attention
from concordant.kernels.packed_attention import JOINT, in_one_row, segments_of, tokens_of
from concordant.kernels.put_on import PACKED, kernels_of, put_on
from concordant.models.load import make_deterministic
from concordant.models.tree_attention import hidden_states
from tests.models import zoo


def trees(*shapes: tuple[int, ...]) -> list[PromptTree]:
    """Trunk, then branches, in tokens."""
    return [
        PromptTree(
            zoo.tokens(trunk, seed), tuple(Branch.response(zoo.tokens(n, seed + i)) for i, n in enumerate(branches))
        )
        for seed, (trunk, *branches) in enumerate(shapes)
    ]


def segments_in(*shapes: tuple[int, ...]) -> list[packed_attention.Segment]:
    tree_T, branch_T, branch = [], [], 0
    for number, (trunk, *branches) in enumerate(shapes):
        tree_T += [number] * (trunk + sum(branches))
        branch_T += [-1] * trunk
        for length in branches:
            branch_T += [branch] * length
            branch += 1
    return segments_of(tree_T, branch_T)


LARGE = (JOINT + 2, 9, 3, 5, 4, JOINT, 4)  # three branches that share a call, one that fills its own, one that is left
SHAPES = [(3, 2, 4), (5, 1), LARGE, (4, 6), (90, 30, 30), (JOINT + 7, 5)]


def test_segments_by_hand() -> None:
    """Small trees share a segment; of a large one trunk and first branch are plain, others look back at the trunk."""
    small, large, third = segments_in((2, 1, 2), (1, 1), (JOINT, 3, 2))
    o, x = 0.0, -torch.inf
    assert small.mask_QK is not None
    assert small.mask_QK.tolist() == [
        [o, x, x, x, x, x, x],
        [o, o, x, x, x, x, x],
        [o, o, o, x, x, x, x],
        [o, o, x, o, x, x, x],
        [o, o, x, o, o, x, x],
        [x, x, x, x, x, o, x],
        [x, x, x, x, x, o, o],
    ]
    assert (large.tokens, large.trunk, large.mask_QK) == (JOINT + 3, 0, None)
    assert (third.tokens, third.trunk) == (2, JOINT)
    assert third.mask_QK is not None
    assert third.mask_QK[:, JOINT - 1 :].tolist() == [[o, o, x], [o, o, o]]
    _, together = segments_in((JOINT, 3, 2, 1))
    assert (together.tokens, together.trunk) == (3, JOINT) and together.mask_QK is not None
    assert together.mask_QK[:, JOINT - 1 :].tolist() == [[o, o, x, x], [o, o, o, x], [o, x, x, o]], (
        "siblings are unseen"
    )


def test_every_token_is_in_one_piece_and_work_follows_the_trees() -> None:
    assert sum(p.tokens for p in segments_in(*SHAPES)) == sum(map(sum, SHAPES))

    def cells(count: int) -> int:
        return sum(p.tokens * (p.tokens + p.trunk) for p in segments_in(*[(150, 20, 30)] * count))

    assert cells(16) == 16 * cells(1), "a mask over the row would be 256 times one tree's"


@pytest.mark.parametrize("name", ["Llama", "GPT-2", "Qwen3-MoE"])
def test_the_same_numbers_and_gradients_as_with_one_mask(name: str) -> None:
    model = zoo.make(name, max_position_embeddings=512, n_positions=512)
    make_deterministic(model)
    batch = lay_out(trees(*SHAPES))
    direction = torch.randn(model.get_input_embeddings().weight.shape[1], generator=torch.Generator().manual_seed(0))

    def run(packed: bool) -> tuple[Tensor, Tensor]:
        if packed:
            hidden = in_one_row(model, batch, tokens_of(batch))
        else:
            hidden = hidden_states(model, batch, Layout.TREE)[batch.is_token_RL]
        model.zero_grad()
        (hidden * direction).sum().backward()
        return hidden.detach(), model.get_input_embeddings().weight.grad.clone()

    put_on(model)
    assert PACKED in kernels_of(model)
    for mine, masked in zip(run(True), run(False), strict=True):
        assert torch.allclose(mine, masked, atol=2e-5 * float(masked.abs().max()))


def test_attention_of_bf16_is_rounded_once_at_its_end() -> None:
    shape = (1, 2, 12, 8)
    q, k, v = (torch.randn(shape, generator=torch.Generator().manual_seed(i)).bfloat16() for i in range(3))
    module = torch.nn.Module()
    module.is_causal = True
    with packed_attention.attending(segments_in((8, 4))), torch.autocast("cpu", torch.bfloat16):
        given, _ = attention._attend(module, q, k, v, torch.zeros(1, 1, 1, 1))
    scores = (q.double() @ k.double().transpose(2, 3)) / 8**0.5
    hidden = torch.ones(12, 12, dtype=torch.bool).triu(1)
    exact = scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v.double()
    elsewhere = given != exact.transpose(1, 2).float().bfloat16()
    assert elsewhere.sum() <= 2, "but for what lies between two numbers of bf16"


def test_which_models_pack_their_trees() -> None:
    carried = {}
    for name in ("Llama", "Gemma 3", "GPT-J"):
        model = zoo.make(name)
        put_on(model)
        carried[name] = PACKED in kernels_of(model)
    assert carried == {
        "Llama": True,
        "Gemma 3": False,  # windows need a mask of their own
        "GPT-J": False,  # its attention is eager, which takes no other function
    }


def test_a_model_that_does_not_reach_our_function_is_not_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    """An architecture may have attention of its own beside the one that it looks up."""
    monkeypatch.setattr(packed_attention, "_attend", lambda segments, *given, **settings: sdpa(*given, **settings))
    model = zoo.make("Llama")
    put_on(model)
    assert PACKED not in kernels_of(model)


def sdpa(module: torch.nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, **settings: object) -> Tensor:
    return attention.sdpa_attention_forward(module, q, k, v, None, **settings)[0]
