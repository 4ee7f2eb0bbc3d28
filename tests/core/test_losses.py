import math

import pytest
import torch

from concordant.core import losses
from concordant.core.masked import aggregate, aggregate_weight, whiten


def test_bradley_terry_worked_number():
    chosen, rejected = torch.tensor([0.73]), torch.tensor([0.21])
    assert torch.sigmoid(chosen - rejected).item() == pytest.approx(0.627, abs=5e-4)
    assert losses.bradley_terry(chosen, rejected).item() == pytest.approx(0.467, abs=5e-4)


def test_the_tutorials_second_number_is_0_43_not_0_38():
    assert losses.bradley_terry(torch.tensor([0.85]), torch.tensor([0.23])).item() == pytest.approx(0.430, abs=5e-4)


def test_bradley_terry_is_invariant_to_shift_and_not_to_scale():
    chosen, rejected = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0])
    same = losses.bradley_terry(chosen + 7, rejected + 7)
    assert torch.allclose(same, losses.bradley_terry(chosen, rejected))
    assert not torch.allclose(losses.bradley_terry(2 * chosen, 2 * rejected), same)


def test_margin_raises_the_loss_as_a_smaller_lead_would():
    assert torch.equal(
        losses.bradley_terry(torch.tensor([2.0]), torch.tensor([0.0]), 0.5),
        losses.bradley_terry(torch.tensor([1.5]), torch.tensor([0.0])),
    )


def test_finite_at_extremes():
    far = torch.tensor([1e4, -1e4])
    for value in (
        losses.bradley_terry(far, -far),
        losses.smoothed_preference(far, 0.1),
    ):
        assert torch.isfinite(value).all()


def test_ppo_worked_example_of_the_tutorial():
    old, new = torch.tensor([-2.1, -1.8, -2.3, -1.9]), torch.tensor([-2.0, -1.7, -2.2, -1.8])
    advantage = torch.full((4,), 0.08)
    assert torch.exp(new - old)[0].item() == pytest.approx(1.105, abs=5e-4)
    loss = losses.ppo_policy(new, old, advantage, 0.2).mean()
    assert loss.item() == pytest.approx(-0.088, abs=5e-4)
    # The tutorial adds the entropy bonus; subtracted, as it must be, the total is -0.090, not -0.066.
    assert loss.item() + 0.5 * 0.02 - 0.01 * 1.2 == pytest.approx(-0.090, abs=5e-4)


@pytest.mark.parametrize(
    ("ratio", "advantage", "moves"), [(1.5, 1.0, False), (1.5, -1.0, True), (0.5, -1.0, False), (0.5, 1.0, True)]
)
def test_clipping_stops_only_what_would_go_further(ratio, advantage, moves):
    logprob = torch.tensor([math.log(ratio)], requires_grad=True)
    losses.ppo_policy(logprob, torch.zeros(1), torch.tensor([advantage]), 0.2).backward()
    assert (logprob.grad.item() != 0) == moves
    clipped = losses.clip_fraction(logprob.detach(), torch.zeros(1), torch.tensor([advantage]), 0.2)
    assert clipped.item() == float(not moves)


def test_value_clipping_never_lowers_the_loss():
    value, old, returns = torch.tensor([1.0]), torch.tensor([0.0]), torch.tensor([1.0])
    assert losses.ppo_value(value, old, returns).item() == 0.0
    assert losses.ppo_value(value, old, returns, 0.2).item() == pytest.approx(0.64)  # (0.2 - 1)²


def test_aggregations_by_hand():
    x = torch.tensor([1.0, 2.0, 3.0, 10.0])  # branches of three tokens and of one
    branch, length = torch.tensor([0, 0, 0, 1]), torch.tensor([3, 1])
    means = {
        mode: aggregate(x, branch, length, mode).item() / aggregate_weight(4, 2, mode)
        for mode in ("token-mean", "seq-mean-token-sum", "seq-mean-token-mean")
    }
    assert means == {"token-mean": 4.0, "seq-mean-token-sum": 8.0, "seq-mean-token-mean": 6.0}


def test_whitening_of_equal_or_single_numbers_is_zero():
    assert torch.equal(whiten(torch.tensor([3.0])), torch.zeros(1))
    assert torch.equal(whiten(torch.full((5,), 2.0)), torch.zeros(5))
    white = whiten(torch.tensor([1.0, 2.0, 9.0]))
    assert white.mean().abs() < 1e-6 and abs(white.std(correction=0).item() - 1) < 1e-6


@pytest.mark.parametrize("log_ratio", [30.0, 87.0, 89.0, 1e4, -1e4])
@pytest.mark.parametrize("advantage", [1.0, -1.0, 0.0])
def test_a_ratio_beyond_every_number_has_a_finite_loss_and_no_gradient(log_ratio, advantage):
    """Where it is clipped the gradient must be 0; it was 0 · infinity."""
    logprob = torch.tensor([log_ratio], requires_grad=True)
    loss = losses.ppo_policy(logprob, torch.zeros(1), torch.tensor([advantage]), 0.2)
    loss.backward()
    assert torch.isfinite(loss).all() and logprob.grad.tolist() == [0.0]


def test_the_value_clip_fraction_counts_the_tokens_whose_clipped_square_is_in_force():
    """Four values that moved by 1 with a range of 0.2, two towards their return and two away from it, and one near.

    Away from the return the unclipped square is greater, so it counts and the token has a gradient.
    """
    value = torch.tensor([1.0, -1.0, 1.0, -1.0, 0.1], requires_grad=True)
    returns = torch.tensor([1.0, -1.0, -1.0, 1.0, 1.0])
    losses.ppo_value(value, torch.zeros(5), returns, 0.2).sum().backward()
    in_force = losses.value_clip_fraction(value.detach(), torch.zeros(5), returns, 0.2)
    assert in_force.tolist() == [1.0, 1.0, 0.0, 0.0, 0.0]
    assert [g == 0 for g in value.grad.tolist()] == [True, True, False, False, False]


def test_whitening_does_not_divide_by_rounding():
    tied = torch.full((64,), 0.3) - torch.linspace(0, 6e-8, 64)
    assert torch.equal(whiten(tied), torch.zeros(64))
    for scale in (1e-6, 1e-7):
        assert whiten(scale * torch.tensor([1.0, 2.0, 9.0])).std(correction=0) > 0.9, "small is not the same as equal"


def test_a_token_counts_as_often_as_the_policy_would_have_sampled_it():
    """π/μ for (π, μ) = (0.2, 0.8), (0.5, 0.5), (0.6, 0.4), and 2 for (0.9, 0.1), whose ratio is 9."""
    policy, sampler = torch.tensor([0.2, 0.5, 0.6, 0.9]), torch.tensor([0.8, 0.5, 0.4, 0.1])
    assert losses.sampler_weight(policy.log(), sampler.log()).tolist() == pytest.approx([0.25, 1.0, 1.5, 2.0])


def test_the_cap_of_a_tokens_weight_can_be_set():
    """The same ratios 0.25, 1, 1.5 and 9 under other caps. Each cap is a limit from above and never from below."""
    policy, sampler = torch.tensor([0.2, 0.5, 0.6, 0.9]), torch.tensor([0.8, 0.5, 0.4, 0.1])
    for cap, expected in ((1.0, [0.25, 1.0, 1.0, 1.0]), (5.0, [0.25, 1.0, 1.5, 5.0]), (10.0, [0.25, 1.0, 1.5, 9.0])):
        assert losses.sampler_weight(policy.log(), sampler.log(), cap).tolist() == pytest.approx(expected)


def test_the_mean_over_weighted_tokens_is_the_mean_under_the_policy():
    """Σ μ·w·f = Σ π·f for any f, where no ratio is above the limit."""
    policy, sampler = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.3, 0.5, 0.2])
    weight, f = losses.sampler_weight(policy.log(), sampler.log()), torch.tensor([1.0, -7.0, 3.0])
    assert (sampler * weight * f).sum().item() == pytest.approx((policy * f).sum().item(), abs=1e-6)
