"""Each estimator's value and gradient against the exact KL, by summing over the whole vocabulary."""

import math

import pytest
import torch

from concordant.config.names import LOSS_ESTIMATORS
from concordant.core import kl
from concordant.core.errors import UserError
from concordant.core.running_stats import RunningStats


@pytest.fixture
def two_policies():
    torch.manual_seed(0)
    return torch.randn(1, 8, dtype=torch.double, requires_grad=True), torch.randn(1, 8, dtype=torch.double)


def expectation(estimator, logits, reference):
    """E over a ~ π of the estimator's value, with the gradient through log π(a) alone as a loss would have it."""
    logp, ref = logits.log_softmax(-1)[0], reference.log_softmax(-1)[0]
    return (logp.exp().detach() * estimator(logp, ref)).sum()


def gradient(value, logits):
    return torch.autograd.grad(value, logits)[0]


def test_k1_and_k3_are_unbiased_in_value_and_k2_is_not(two_policies):
    logits, reference = two_policies
    true = kl.exact(logits, reference).item()
    assert expectation(kl.k1, logits, reference).item() == pytest.approx(true)
    assert expectation(kl.k3, logits, reference).item() == pytest.approx(true)
    assert expectation(kl.k2, logits, reference).item() != pytest.approx(true)


def test_gradients_k1_zero_k2_reverse_k3_forward(two_policies):
    logits, reference = two_policies
    reverse = gradient(kl.exact(logits, reference).sum(), logits)
    forward = gradient(kl.exact(reference, logits).sum(), logits)
    assert gradient(expectation(kl.k1, logits, reference), logits).abs().max() < 1e-12
    assert torch.allclose(gradient(expectation(kl.k2, logits, reference), logits), reverse)
    assert torch.allclose(gradient(expectation(kl.k3, logits, reference), logits), forward)
    assert not torch.allclose(reverse, forward)


def test_worked_numbers_where_the_policy_says_a_token_twice_as_often():
    """log 2; ½ log² 2; ½ - 1 + log 2. Of (1/2, 1/2) from (1/4, 3/4) the exact one is ½ log 2 + ½ log(2/3)."""
    log_pi, log_ref = torch.tensor([0.5]).log(), torch.tensor([0.25]).log()
    expected = {kl.k1: math.log(2), kl.k2: 0.240227, kl.k3: 0.193147, kl.k3_plus: 0.193147}
    for estimator, value in expected.items():
        assert estimator(log_pi, log_ref).item() == pytest.approx(value, abs=1e-6)
    logits, other = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    assert kl.exact(logits, other).item() == pytest.approx(0.143841, abs=1e-6)


def test_k1_is_no_loss():
    assert "k1" not in LOSS_ESTIMATORS


def test_kl_of_a_policy_from_itself_is_zero_and_k3_never_negative():
    logp = torch.randn(100) - 3
    for estimator in (kl.k1, kl.k2, kl.k3):
        assert torch.equal(estimator(logp, logp), torch.zeros(100))
    assert (kl.k3(logp, logp + torch.randn(100)) >= 0).all()


def test_adaptive_controller_by_hand():
    controller = kl.AdaptiveKLController(kl_coef=0.1, target_kl=6.0, horizon=10_000)
    assert controller.update(12.0, 1_000) == pytest.approx(0.1 * (1 + 0.2 * 0.1))  # error clipped at 0.2
    assert controller.update(6.0, 1_000) == pytest.approx(0.102)
    assert controller.update(5.4, 5_000) == pytest.approx(0.102 * (1 - 0.1 * 0.5))


def test_running_stats_equal_those_of_everything_and_survive_one_sample():
    x = torch.randn(100, dtype=torch.double) * 3 + 5
    stats = RunningStats()
    for part in (x[:1], x[1:1], x[1:40], x[40:]):
        stats.update(part)
    assert stats.mean == pytest.approx(x.mean().item())
    assert stats.std == pytest.approx(x.std(correction=0).item())
    one = RunningStats()
    one.update(torch.tensor([4.0]))
    assert one.std == 1.0 and one.normalize(torch.tensor([4.0])).item() == 0.0


def test_the_adaptive_coefficient_stays_above_zero_whatever_the_horizon():
    controller = kl.AdaptiveKLController(kl_coef=0.1, target_kl=6.0, horizon=10)
    assert controller.update(0.0, 1_000) == pytest.approx(0.08), "a fifth at most"
    for _ in range(50):
        assert controller.update(0.0, 1_000) > 0


@pytest.mark.parametrize("settings", [{"target_kl": 0.0}, {"target_kl": -1.0}, {"horizon": 0}])
def test_a_target_or_horizon_of_nothing_is_refused(settings):
    with pytest.raises(UserError, match="expected numbers above 0"):
        kl.AdaptiveKLController(**settings)


def test_almost_equal_samples_are_not_divided_by_their_deviation():
    flat = RunningStats()
    flat.update(torch.tensor([5.0, 5.00001, 4.99999, 5.0]))
    assert flat.std == 1.0 and flat.normalize(torch.tensor([6.0])).item() == pytest.approx(1.0)
    small = RunningStats()
    small.update(1e-3 * torch.tensor([-1.0, 1.0]))
    assert small.std == pytest.approx(1e-3), "a reward of small numbers keeps its scale"


def test_an_almost_flat_start_does_not_make_later_rewards_huge():
    """Around 0 no share of the mean is a floor: a reward of 1 became 898,026 of such deviations."""
    start = RunningStats()
    start.update(torch.tensor([0.0, 0.0, 0.0, 2.5e-6]))
    assert start.is_flat and start.normalize(torch.tensor([1.0])).item() == pytest.approx(1.0)


@pytest.mark.parametrize("log_ratio", [21.0, 89.0, 1e4])
def test_k3_stays_finite_and_raises_a_token_that_the_policy_has_lost(log_ratio):
    logprob = torch.tensor([-log_ratio - 1.0, -1.0], requires_grad=True)
    loss = kl.k3(logprob, torch.tensor([-1.0, -1.5]))
    (slope,) = torch.autograd.grad(loss.sum(), logprob)
    assert loss.isfinite().all() and slope.isfinite().all() and slope[0] < -1e8
    assert slope[1].item() == pytest.approx(1 - math.exp(-0.5)), "an ordinary token beside it keeps its gradient"


def test_k3_plus_has_the_value_of_k3_and_the_gradient_of_k2():
    policy = torch.tensor([-1.0, -2.5, -0.3], requires_grad=True)
    reference = torch.tensor([-1.2, -0.5, -0.3])
    value = kl.ESTIMATORS["k3+"](policy, reference)
    assert torch.allclose(value, kl.k3(policy, reference)) and value[2] == 0
    (gradient,) = torch.autograd.grad(value.sum(), policy)
    assert gradient.tolist() == pytest.approx([0.2, -2.0, 0.0]), "log π - log π_ref, as of k2"
