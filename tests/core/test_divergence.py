"""Divergences of a student from a teacher: values by hand, gradients beside autograd's, and the edges."""

import math

import pytest
import torch

from concordant.core import logprobs, row_blocks
from concordant.core.divergence import DIVERGENCES, Divergence
from concordant.core.objective import Outputs

# The student says (1/2, 1/2), the teacher (1/4, 3/4), and their even mixture is (3/8, 5/8).
STUDENT, TEACHER = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
BY_HAND = {
    "forward_kl": 0.25 * math.log(1 / 2) + 0.75 * math.log(3 / 2),
    "reverse_kl": 0.5 * math.log(2) + 0.5 * math.log(2 / 3),
    "jsd": (0.25 * math.log(2 / 3) + 0.75 * math.log(6 / 5) + 0.5 * math.log(4 / 3) + 0.5 * math.log(4 / 5)) / 2,
}


@pytest.mark.parametrize("name", DIVERGENCES)
def test_the_value_by_hand_and_the_sign_of_the_gradient(name):
    logits = STUDENT.clone().requires_grad_()
    value = Divergence(name, 0.5).between(logits, TEACHER)
    assert value.item() == pytest.approx(BY_HAND[name], abs=1e-7)
    value.sum().backward()
    first, second = logits.grad[0].tolist()
    assert first > 0 > second, "a descent takes the first word, which the teacher says less often, down"
    assert first + second == pytest.approx(0, abs=1e-7)


def test_beta_is_the_teachers_share():
    """With β = 1/4 the mixture is (7/16, 9/16)."""
    of_teacher = 0.25 * math.log(4 / 7) + 0.75 * math.log(4 / 3)
    of_student = 0.5 * math.log(8 / 7) + 0.5 * math.log(8 / 9)
    assert Divergence("jsd", 0.25).between(STUDENT, TEACHER).item() == pytest.approx(
        0.25 * of_teacher + 0.75 * of_student, abs=1e-7
    )


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("name", DIVERGENCES)
def test_the_gradient_is_autograds_in_blocks_of_rows_and_beside_columns_without_a_token(name, temperature, monkeypatch):
    monkeypatch.setattr(row_blocks, "BLOCK_ELEMENTS", 2 * 13)
    stream = torch.Generator().manual_seed(1)
    student, teacher = (3 * torch.randn(9, 13, generator=stream) for _ in range(2))
    weight = torch.randn(9, generator=stream)
    one, other = student.clone().requires_grad_(), student.clone().requires_grad_()
    wider = torch.cat([teacher, torch.full((9, 4), 50.0)], 1)
    value = Divergence(name, 0.3).between(one, wider, temperature)
    logp, logq = ((x / temperature).log_softmax(-1) for x in (other, teacher))
    plain = DIVERGENCES[name](logp, logq, 0.3)[0].sum(-1)
    torch.testing.assert_close(value, plain, atol=1e-5, rtol=1e-5)
    (value * weight).sum().backward()
    (plain * weight).sum().backward()
    torch.testing.assert_close(one.grad, other.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_equal_distributions_and_far_ones(name):
    """0 and no gradient where both say the same; finite where they are certain of other words."""
    same = torch.tensor([[1.0, 2.0, 4.0]], requires_grad=True)
    value = Divergence(name).between(same, same.detach() + 7.0)  # a shift of all logits changes nothing
    value.sum().backward()
    assert value.item() == pytest.approx(0, abs=1e-6) and same.grad.abs().max() < 1e-6
    certain = torch.tensor([[200.0, 0.0]], requires_grad=True)
    value = Divergence(name).between(certain, torch.tensor([[0.0, 200.0]]))
    value.sum().backward()
    assert value.item() == pytest.approx(math.log(2) if name == "jsd" else 200.0, rel=1e-5)
    assert bool(torch.isfinite(certain.grad).all())


def test_no_tokens_give_no_numbers():
    assert Divergence().between(torch.zeros(0, 5), torch.zeros(0, 5)).shape == (0,)


@pytest.mark.parametrize("recompute", [False, True])
def test_a_forward_pass_gives_it_in_chunks(recompute, monkeypatch):
    """The hidden states are the logits: two chunks, kept or computed again, and nothing that was not wanted."""
    monkeypatch.setattr(logprobs, "CHUNK_ELEMENTS", 2 * 2)
    monkeypatch.setattr(logprobs, "KEPT_ELEMENTS", 0 if recompute else 2**26)
    hidden = STUDENT.repeat(3, 1).requires_grad_()
    out = logprobs.of_tokens(
        hidden,
        torch.zeros(3, dtype=torch.int64),
        lambda h: h,
        2,
        Outputs(divergence=Divergence("reverse_kl")),
        reference=(TEACHER.repeat(3, 1), lambda h: h),
    )
    assert out.logprob_N is out.kl_N is None and out.divergence_N is not None
    assert out.divergence_N.tolist() == pytest.approx([BY_HAND["reverse_kl"]] * 3, abs=1e-7)
    out.divergence_N.sum().backward()
    assert hidden.grad is not None and bool((hidden.grad[:, 0] > 0).all())
