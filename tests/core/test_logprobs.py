"""Log-probs, entropies and their gradients in chunks and blocks, against the plain formula in double precision.

Both ways of computing them: the plain function and the kernel in blocks of rows.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from concordant.core import logprobs, row_blocks
from concordant.core.logprobs import Distribution
from concordant.core.objective import Outputs
from concordant.kernels import softmax

N, H, V = 7, 5, 11
WANT = Outputs(logprob=True, entropy=True, top=True)
both_ways = pytest.mark.parametrize("way", [logprobs.distribution, softmax.distribution], ids=["plain", "in blocks"])


def case() -> tuple[Tensor, Tensor, Tensor]:
    stream = torch.Generator().manual_seed(3)
    hidden_NH, weight_VH = torch.randn(N, H, generator=stream), torch.randn(V, H, generator=stream)
    return hidden_NH.requires_grad_(), weight_VH.requires_grad_(), torch.randint(0, V, (N,), generator=stream)


def plain(hidden_NH: Tensor, weight_VH: Tensor, target_N: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    log_p_NV = ((hidden_NH.double() @ weight_VH.double().T) / temperature).log_softmax(-1)
    return log_p_NV.gather(1, target_N[:, None])[:, 0], -(log_p_NV.exp() * log_p_NV).sum(-1)


@pytest.mark.parametrize("chunk, kept", [(2**24, 2**26), (3 * V, 2**26), (3 * V, 0)], ids=["one", "chunks", "again"])
@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.0, 1.0), (1.0, -0.3)], ids=["log-prob", "entropy", "both"])
@both_ways
def test_numbers_and_gradients(
    monkeypatch: pytest.MonkeyPatch, chunk: int, kept: int, weights: tuple[float, float], way: Distribution
) -> None:
    """Whatever is cut and wherever, with blocks of two rows, at a temperature."""
    monkeypatch.setattr(logprobs, "CHUNK_ELEMENTS", chunk)
    monkeypatch.setattr(logprobs, "KEPT_ELEMENTS", kept)
    monkeypatch.setattr(row_blocks, "BLOCK_ELEMENTS", 2 * V)
    mine, theirs = case(), case()
    out = logprobs.of_tokens(mine[0], mine[2], lambda h: h @ mine[1].T, V, WANT, temperature=0.7, distribution=way)
    assert out.logprob_N is not None and out.entropy_N is not None and out.top_N is not None
    logprob_N, entropy_N = plain(*theirs, temperature=0.7)
    assert torch.allclose(out.logprob_N.double(), logprob_N, atol=1e-5)
    assert torch.allclose(out.entropy_N.double(), entropy_N, atol=1e-5)
    order_N = torch.linspace(-1, 1, N)  # another factor for every token
    (order_N * (weights[0] * out.logprob_N + weights[1] * out.entropy_N)).sum().backward()
    (order_N * (weights[0] * logprob_N + weights[1] * entropy_N)).sum().backward()
    for a, b in zip(mine[:2], theirs[:2], strict=True):
        assert a.grad is not None and b.grad is not None
        assert torch.allclose(a.grad, b.grad, atol=1e-5)


@both_ways
def test_top_is_the_most_likely_token(monkeypatch: pytest.MonkeyPatch, way: Distribution) -> None:
    """With blocks of two rows, so that every block must look at its own targets."""
    monkeypatch.setattr(row_blocks, "BLOCK_ELEMENTS", 2 * V)
    hidden_NH, weight_VH, _ = case()
    best_N = (hidden_NH @ weight_VH.T).argmax(-1)
    is_best_N = torch.arange(N) % 3 == 0
    for wanted_N in (is_best_N, ~is_best_N):
        target_N = torch.where(wanted_N, best_N, (best_N + 1) % V)
        out = logprobs.of_tokens(hidden_NH, target_N, lambda h: h @ weight_VH.T, V, WANT, distribution=way)
        assert out.top_N is not None
        assert out.top_N.tolist() == wanted_N.float().tolist()


@both_ways
def test_far_logits_stay_finite(way: Distribution) -> None:
    """One token 2e4 above the rest: log-prob 0, entropy 0, and of another token -2e4."""
    logits_NV = torch.zeros(2, V)
    logits_NV[:, 4] = 2e4
    out = logprobs.of_tokens(logits_NV, torch.tensor([4, 5]), lambda h: h, V, WANT, distribution=way)
    assert out.logprob_N is not None and out.entropy_N is not None
    assert out.logprob_N.tolist() == [0.0, -2e4]
    assert out.entropy_N.tolist() == [0.0, 0.0]


@both_ways
def test_nothing_wanted_of_no_tokens(way: Distribution) -> None:
    out = logprobs.of_tokens(
        torch.zeros(0, V), torch.zeros(0, dtype=torch.int64), lambda h: h, V, WANT, distribution=way
    )
    assert out.logprob_N is not None and len(out.logprob_N) == 0


@both_ways
def test_the_exact_kl_compares_both_distributions_at_the_temperature(way: Distribution) -> None:
    """Three words: softmax of (0, ln 4, ln 9) at temperature 2 is (1, 2, 3) / 6, and of equal logits a third each."""
    logits_NV = torch.tensor([[0.0, math.log(4.0), math.log(9.0)]] * 2)
    other = (torch.zeros(2, 3), lambda h: h)
    target_N = torch.tensor([0, 2])
    for reference, expected in ((other, sum(p / 6 * math.log(p / 2) for p in (1, 2, 3))), ((logits_NV, other[1]), 0.0)):
        out = logprobs.of_tokens(
            logits_NV,
            target_N,
            lambda h: h,
            3,
            Outputs(kl=True),
            temperature=2.0,
            reference=reference,
            distribution=way,
        )
        assert out.kl_N is not None and out.kl_N.tolist() == pytest.approx([expected] * 2, abs=1e-6)
