"""One adapted layer: its numbers by hand, its start, its dtypes.

I inputs, O outputs, R rank.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from concordant.core.errors import UserError
from concordant.models.lora import LoRALinear


def test_shapes_and_a_zero_b_leave_the_output_as_it_was() -> None:
    base = nn.Linear(40, 24)
    lora = LoRALinear(base, r=16)
    a_RI, b_OR = lora.adapter("default").parameters()
    assert a_RI.shape == (16, 40) and b_OR.shape == (24, 16)
    assert not b_OR.any() and a_RI.std() > 0
    assert [p.requires_grad for p in (a_RI, b_OR, *base.parameters())] == [True, True, False, False]
    x = torch.randn(2, 3, 40)
    assert torch.equal(lora(x), base(x))


def test_a_is_kaiming_uniform_and_depends_on_the_seed_alone() -> None:
    first, again, other = (
        LoRALinear(nn.Linear(400, 8), generator=torch.Generator().manual_seed(s)).adapter("default").lora_A
        for s in (5, 5, 6)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    # kaiming_uniform_(a=sqrt 5) is uniform on ±1/sqrt(in) = ±0.05, of deviation 0.05/sqrt 3.
    assert first.abs().max() <= 0.05 and first.std().item() == pytest.approx(0.05 / 3**0.5, rel=0.03)


def worked_layer(base: nn.Linear | Conv1D) -> LoRALinear:
    """2 inputs, 1 output, r 1, alpha 3: W = (1, 2), A = (1, -1), B = 10, so the update is 30 (x0 - x1)."""
    lora = LoRALinear(base, r=1, alpha=3.0)
    with torch.no_grad():
        base.bias.fill_(0.5)
        lora.adapter("default").lora_A.copy_(torch.tensor([[1.0, -1.0]]))
        lora.adapter("default").lora_B.fill_(10.0)
    return lora


@pytest.mark.parametrize("transposed", [False, True], ids=["Linear", "Conv1D"])
def test_worked_number(transposed: bool) -> None:
    base = Conv1D(1, 2) if transposed else nn.Linear(2, 1)
    with torch.no_grad():
        base.weight.copy_(torch.tensor([[1.0, 2.0]]).T if transposed else torch.tensor([[1.0, 2.0]]))
    lora = worked_layer(base)
    # x = (3, 1): base 3 + 2 + 0.5 = 5.5; update 3/1 · 10 · (3 - 1) = 60.
    assert lora(torch.tensor([[3.0, 1.0]])).item() == pytest.approx(65.5)
    assert lora.weight.flatten().tolist() == pytest.approx([31.0, -28.0])
    lora.active = None
    assert lora(torch.tensor([[3.0, 1.0]])).item() == pytest.approx(5.5)


def test_rank_and_alpha_scale_as_alpha_over_r() -> None:
    adapter = LoRALinear(nn.Linear(8, 8), r=4, alpha=32.0).adapter("default")
    assert adapter.scaling == 8.0
    assert LoRALinear(nn.Linear(8, 8), r=4, alpha=32.0, rank_stabilised=True).adapter("default").scaling == 16.0


def test_a_bf16_base_keeps_fp32_adapters_that_a_tiny_step_moves() -> None:
    lora = LoRALinear(nn.Linear(8, 8, dtype=torch.bfloat16), r=2)
    x = torch.randn(3, 8, dtype=torch.bfloat16)
    a_RI, b_OR = lora.adapter("default").parameters()
    assert a_RI.dtype == b_OR.dtype == torch.float32
    with torch.no_grad():
        b_OR.fill_(1.0)
        b_OR.add_(1e-6)
    assert b_OR[0, 0].item() != 1.0
    assert lora(x).dtype == torch.bfloat16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.isfinite(lora(x)).all()


def test_dropout_acts_in_training_on_the_update_alone() -> None:
    lora = LoRALinear(nn.Linear(64, 4), r=4, dropout=0.5)
    with torch.no_grad():
        lora.adapter("default").lora_B.fill_(1.0)
    x = torch.randn(2, 64)
    assert not torch.equal(lora(x), lora(x))
    lora.active = None
    assert torch.equal(lora(x), lora.base(x))
    lora.active = "default"
    lora.eval()
    assert torch.equal(lora(x), lora(x))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"r": 0}, "rank 0: expected 1 or more"),
        ({"alpha": 0.0}, "alpha 0.0"),
        ({"dropout": 1.0}, "dropout 1.0"),
        ({"name": "a.b"}, 'adapter name "a.b"'),
        ({"name": "training"}, 'adapter name "training"'),
    ],
)
def test_wrong_settings_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        LoRALinear(nn.Linear(4, 4), **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("transposed", [False, True], ids=["Linear", "Conv1D"])
def test_a_bf16_merge_rounds_the_sum_once(transposed: bool) -> None:
    """W = 1 and an update of 2^-8 + 2^-12. bf16 has 8 bits: the sum is just above half way from 1 to 1 + 2^-7 and goes
    up; an update that is rounded to 2^-8 first is half way, and goes to the even 1."""
    base = Conv1D(1, 1) if transposed else nn.Linear(1, 1)
    base = base.to(torch.bfloat16)
    lora = LoRALinear(base, r=1, alpha=1.0)
    with torch.no_grad():
        base.weight.fill_(1.0)
        lora.adapter("default").lora_A.fill_(1.0)
        lora.adapter("default").lora_B.fill_(2**-8 + 2**-17)
    merged = lora.merged_weight("default")
    assert merged.dtype == torch.bfloat16 and merged.item() == 1 + 2**-7
