"""Products by oneDNN: the product of the whole for any number of rows, and nothing changed around it."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from concordant.kernels import products
from concordant.kernels.products import BLOCKS, SUMMED, TAILS, add_multiplied, multiply

ROWS = [0, 1, 15, 16, 17, 64, 65, 127, 128, 129, 511, 512, 513, 1100]
INPUTS, OUTPUTS = 24, 40


@pytest.fixture
def by_onednn(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The way through oneDNN for any size, on any processor on which it is exact."""
    if not products._is_exact():
        pytest.skip("oneDNN would round these products here")
    monkeypatch.setattr(products, "_faster", lambda: True)
    monkeypatch.setattr(products, "LEAST", 0)
    monkeypatch.setattr(products, "TAILS", (1, *TAILS))
    before = str(products._onednn.matmul.fp32_precision)
    yield
    assert str(products._onednn.matmul.fp32_precision) == before, "a setting of the process, which others would see"


def drawn(*shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in shapes]


@pytest.mark.parametrize("rows", ROWS)
def test_blocks_make_the_whole_product(by_onednn: None, rows: int) -> None:
    a, b, bias, grad = drawn((rows, INPUTS), (INPUTS, OUTPUTS), (OUTPUTS,), (rows, OUTPUTS))
    wanted = a.double() @ b.double()
    torch.testing.assert_close(multiply(a, b).double(), wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(multiply(a, b.t().contiguous().t()).double(), wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(multiply(a, b, bias).double(), wanted + bias, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(multiply(grad, b.t()).double(), grad.double() @ b.double().t(), atol=2e-5, rtol=1e-5)

    added = a.double().t() @ grad.double()
    before = torch.ones(INPUTS, OUTPUTS)
    kept = before.clone()
    assert add_multiplied(kept, a, grad) is kept, "in place"
    torch.testing.assert_close(kept.double(), before + added, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(add_multiplied(None, a, grad).double(), added, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("rows", ROWS)
def test_factors_in_bf16_are_multiplied_in_blocks_too_and_summed_in_fp32(rows: int) -> None:
    a, b, grad = (x.bfloat16() for x in drawn((rows, INPUTS), (INPUTS, OUTPUTS), (rows, OUTPUTS)))
    torch.testing.assert_close(multiply(a, b).double(), a.double() @ b.double(), atol=1e-2, rtol=2**-8)

    # sums of ones that bf16 cannot hold, of blocks' that it can
    a, grad = torch.ones_like(a), torch.ones_like(grad)
    total = torch.full((INPUTS, OUTPUTS), 1000.0)
    add_multiplied(total, a, grad)
    assert torch.equal(total, torch.full_like(total, 1000.0 + rows))
    assert torch.equal(add_multiplied(None, a, grad), torch.full_like(total, float(rows)))


@pytest.mark.parametrize("allowed", [BLOCKS, SUMMED])
def test_all_numbers_of_rows_are_multiplied_in_few_sizes(allowed: tuple[int, ...]) -> None:
    sizes = set()
    for count in range(1, 1600):
        blocks = list(products._blocks(count, allowed))
        covered = [row for rows, _ in blocks for row in range(*rows.indices(count))]
        assert covered == list(range(count))
        assert sum(size for _, size in blocks) < count + 64
        sizes |= {size for _, size in blocks}
    assert sizes <= {*allowed, *TAILS}


@pytest.mark.skipif(not products._faster(), reason="MKL multiplies on this processor")
@pytest.mark.parametrize("sizes", [(1024, 64), (64, 1024)], ids=["wide", "narrow"])
def test_both_ways_to_a_weights_gradient_give_the_same_bits(sizes: tuple[int, int]) -> None:
    a_RI, b_RO = drawn((700, sizes[0]), (700, sizes[1]))
    one_way = torch.zeros(sizes)
    for rows, size in products._blocks(700, SUMMED):
        a, b = (products._filled(x[rows], size) for x in (a_RI, b_RO))
        one_way += products._by_onednn(a.t(), b)
    assert torch.equal(products.add_multiplied(None, a_RI, b_RO), one_way)


@pytest.mark.skipif(not products._faster(), reason="MKL multiplies on this processor")
def test_the_block_of_a_row_does_not_change_its_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    a_RI, b_IO = drawn((900, 256), (256, 320))
    in_few_blocks = products.multiply(a_RI, b_IO)
    monkeypatch.setattr(products, "BLOCKS", (128,))
    assert torch.equal(products.multiply(a_RI, b_IO), in_few_blocks)


def test_rounded_products_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def rounding(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
        return (a.bfloat16() @ b.bfloat16()).float()

    monkeypatch.setattr(products, "_by_onednn", rounding)
    assert not products._is_exact()


@pytest.mark.skipif(not products._faster(), reason="MKL multiplies on this processor")
def test_a_layers_products_are_onednns(capfd: pytest.CaptureFixture[str]) -> None:
    a, b = drawn((512, 256), (256, 256))
    with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
        multiply(a, b)
        add_multiplied(b, a, a)
    said = capfd.readouterr().out
    assert len(re.findall("primitive,exec,cpu,(?:matmul|inner_product)", said)) == 2
