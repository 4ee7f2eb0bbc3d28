"""Block masks beside their twin, the boolean mask: the same rule, the same numbers, and empty blocks left out.

PyTorch has no gradient of ``flex_attention`` on a CPU, so only passes without gradient are compared here.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from concordant.config.model import ModelConfig
from concordant.core.errors import UserError
from concordant.core.trees import Branch, Layout, PromptTree, packed_batches
from concordant.engines.local.precision import place
from concordant.kernels import flex, last_layer
from concordant.kernels.put_on import CPU, FLEX, KERNELS, LAST_LAYER, ON_REQUEST, Kernel, kernels_of, put_on
from concordant.kernels.reader import reader_of
from concordant.models.backbone import undisturbed
from concordant.models.load import make_deterministic
from concordant.models.tree_attention import PlainReader, visible
from tests.models import zoo


def trees() -> list[PromptTree]:
    """Small trees, and two that are longer than a block."""
    shapes = [(150, 20, 3), (130, 9), (4, 5, 9), (11, 3, 7, 1), (1, 12)]
    return [
        PromptTree(zoo.tokens(trunk, i), tuple(Branch.response(zoo.tokens(n, i + n)) for n in branches))
        for i, (trunk, *branches) in enumerate(shapes)
    ]


@pytest.fixture
def on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels of a GPU, on the CPU."""
    monkeypatch.setitem(ON_REQUEST, FLEX, Kernel((CPU,), flex.put_on))
    alone = {LAST_LAYER: KERNELS[LAST_LAYER]}  # another table: a key that is removed and put back changes the order
    monkeypatch.setattr("concordant.kernels.put_on.KERNELS", alone)
    monkeypatch.setattr(last_layer, "WORTH", 0)


def test_the_rule_is_that_of_the_boolean_mask_and_empty_blocks_are_left_out() -> None:
    (batch,) = packed_batches(trees(), 2**20)
    mask, at_L = flex.block_mask(batch), torch.arange(batch.ids_RL.shape[1])
    number = torch.zeros((), dtype=torch.int64)
    assert torch.equal(mask.mask_mod(number, number, at_L[:, None], at_L[None]), visible(batch)[0])
    blocks = -(-len(at_L) // flex.BLOCK)
    assert blocks == 3 and int(mask.kv_num_blocks.sum()) < blocks * (blocks + 1) / 2, "fewer than a causal mask has"


@pytest.mark.parametrize("name", ["Llama", "GPT-2", "Qwen3", "Phi-3"])
def test_the_numbers_are_those_of_the_boolean_mask(name: str, on_a_cpu: None) -> None:
    model = zoo.make(name)
    make_deterministic(model)
    put_on(model, [FLEX])
    assert kernels_of(model) == {FLEX, LAST_LAYER}
    fast, plain = reader_of(model, Layout.TREE), PlainReader(model, Layout.TREE)
    (batch,) = fast.batches(trees(), 2**20)
    with undisturbed(model):
        given, wanted = (reader.hidden_at(batch, batch.source_N) for reader in (fast, plain))
    torch.testing.assert_close(given, wanted, atol=1e-5, rtol=1e-5)


def test_a_mask_that_shows_a_sibling_is_found(on_a_cpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    rule = flex.block_mask

    def siblings_seen(batch: flex.TreeBatch) -> flex.BlockMask:
        return rule(replace(batch, branch_RL=batch.branch_RL.clamp(max=0)))

    monkeypatch.setattr(flex, "block_mask", siblings_seen)
    model = zoo.make("Llama")
    put_on(model, [FLEX])
    assert FLEX not in kernels_of(model)


@pytest.mark.parametrize("name", ["Mistral with a sliding window", "Gemma 2", "BLOOM"])
def test_a_model_that_does_not_fit_keeps_its_mask(name: str, on_a_cpu: None) -> None:
    model = zoo.make(name)
    put_on(model, [FLEX])
    assert FLEX not in kernels_of(model)


def test_block_masks_are_for_a_gpu() -> None:
    with pytest.raises(UserError, match="flex is for a GPU"):
        place(zoo.make("Llama"), ModelConfig(kernels="flex", device="cpu"))
    model = zoo.make("Llama")
    put_on(model)
    assert FLEX not in kernels_of(model)
