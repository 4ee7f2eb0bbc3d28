"""Products by oneDNN: the product of the whole for any number of rows, and nothing changed around it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from concordant.models import products
from concordant.models.products import BLOCKS, TAILS, add_multiplied, multiply

ROWS = [0, 1, 15, 16, 17, 64, 65, 127, 128, 129, 511, 512, 513, 1100]
INPUTS, OUTPUTS = 24, 40


def precision() -> str:
    return str(products._onednn.matmul.fp32_precision)


@pytest.fixture
def by_onednn(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The way through oneDNN for any size, on any processor on which it is exact."""
    if not products._is_exact():
        pytest.skip("oneDNN would round these products here")
    monkeypatch.setattr(products, "_faster", lambda: True)
    monkeypatch.setattr(products, "LEAST", 0)
    monkeypatch.setattr(products, "TAILS", (1, *TAILS))
    yield
    assert precision() == "none"


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
    add_multiplied(kept, a, grad)
    torch.testing.assert_close(kept.double(), before + added, atol=1e-4, rtol=1e-5)
    unset = torch.full_like(before, torch.nan)
    add_multiplied(unset, a, grad, fresh=True)
    torch.testing.assert_close(unset.double(), added, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("rows", ROWS)
def test_factors_in_bf16_are_multiplied_in_blocks_too_and_summed_in_fp32(rows: int) -> None:
    a, b, grad = (x.bfloat16() for x in drawn((rows, INPUTS), (INPUTS, OUTPUTS), (rows, OUTPUTS)))
    torch.testing.assert_close(multiply(a, b).double(), a.double() @ b.double(), atol=1e-2, rtol=2**-8)

    # sums of ones that bf16 cannot hold, of blocks' that it can
    a, grad = torch.ones_like(a), torch.ones_like(grad)
    total = torch.full((INPUTS, OUTPUTS), 1000.0)
    add_multiplied(total, a, grad)
    assert torch.equal(total, torch.full_like(total, 1000.0 + rows))
    add_multiplied(total.fill_(torch.nan), a, grad, fresh=True)
    assert torch.equal(total, torch.full_like(total, float(rows)))


def test_all_numbers_of_rows_are_multiplied_in_few_sizes() -> None:
    sizes = set()
    for count in range(1, 1600):
        blocks = list(products._blocks(count))
        covered = [row for rows, _ in blocks for row in range(*rows.indices(count))]
        assert covered == list(range(count))
        assert sum(size for _, size in blocks) < count + 64
        sizes |= {size for _, size in blocks}
    assert sizes <= {*BLOCKS, *TAILS}


def test_a_failing_product_leaves_the_setting_as_it_was(by_onednn: None) -> None:
    with pytest.raises(RuntimeError):
        multiply(*drawn((16, 3), (4, 5)))
    assert precision() == "none"


def test_one_of_two_threads_does_not_end_the_others_setting() -> None:
    with products._by_onednn():
        with products._by_onednn():
            pass
        assert precision() == "bf16"
    assert precision() == "none"


def test_rounded_products_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def rounding_where_it_may(a: Tensor, b: Tensor) -> Tensor:
        return a.matmul(b) if precision() == "none" else a.bfloat16().to(a.dtype).matmul(b.bfloat16().to(b.dtype))

    with monkeypatch.context() as patch:
        patch.setattr(Tensor, "__matmul__", rounding_where_it_may)
        assert not products._is_exact()


def test_a_precision_that_the_user_set_stays(by_onednn: None) -> None:
    products._onednn.matmul.fp32_precision = "ieee"
    try:
        multiply(*drawn((16, 3), (3, 5)))
        assert precision() == "ieee"
    finally:
        products._onednn.matmul.fp32_precision = "none"


@pytest.mark.skipif(not products._faster(), reason="MKL multiplies on this processor")
def test_a_layers_products_are_onednns(capfd: pytest.CaptureFixture[str]) -> None:
    a, b = drawn((512, 256), (256, 256))
    with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
        multiply(a, b)
        add_multiplied(b, a, a)
    said = capfd.readouterr().out
    assert said.count("primitive,exec,cpu,matmul") == 2 and "512x256:256x256" in said
