"""The losses of a policy: worked numbers, the sign of the gradient, what does not change them, and edges."""

import math

import pytest
import torch

from concordant.core.masked import aggregate, aggregate_weight
from concordant.core.policy_losses import POLICY_LOSSES, Taken


def taken(ratio, advantage, lengths=None, **bounds):
    """Tokens with these ratios, under an old policy that gave each of them log-prob 0; one branch unless said."""
    logprob = torch.tensor(ratio).log().requires_grad_()
    length_B = torch.tensor(lengths or [len(ratio)])
    branch_N = torch.repeat_interleave(torch.arange(len(length_B)), length_B)
    return Taken(
        logprob_N=logprob, old_logprob_N=torch.zeros(len(ratio)), advantage_N=torch.tensor(advantage),
        branch_N=branch_N, length_B=length_B, **({"low": 0.2, "high": 0.2, "dual": 3.0} | bounds),
    )  # fmt: skip


def of(name, t):
    """(losses, gradient with respect to the log-probs, where a bound acts)."""
    loss_N, clipped_N = POLICY_LOSSES[name](t)
    (gradient,) = torch.autograd.grad(loss_N.sum(), t.logprob_N)
    return loss_N.tolist(), gradient.tolist(), clipped_N.tolist()


def test_clip_higher_by_hand():
    """ε = 0.2, ε' = 0.28: of ratios that rise with a good answer 1.25 keeps its gradient, and 1.3 counts as 1.28."""
    loss, gradient, clipped = of("ppo", taken([1.25, 1.3, 0.7, 0.7], [1.0, 1.0, -1.0, 1.0], high=0.28))
    assert loss == pytest.approx([-1.25, -1.28, 0.8, -0.7]) and clipped == [0, 1, 1, 0]
    assert gradient == pytest.approx([-1.25, 0.0, 0.0, -0.7])


def test_dual_clip_by_hand():
    """A = -2, c = 3: the loss of a ratio of 5 is 6 and not 10, and it has no gradient; one of 2 is as before."""
    loss, gradient, clipped = of("dual-clip", taken([5.0, 2.0, 5.0], [-2.0, -2.0, 1.0]))
    assert loss == pytest.approx([6.0, 4.0, -1.2]) and clipped == [1, 0, 1]
    assert gradient == pytest.approx([0.0, 4.0, 0.0])


def test_gspo_by_hand():
    """Two tokens of ratios 4 and 1 have the ratio √4 = 2 together; a second answer has 1.1 and is not clipped."""
    loss, gradient, clipped = of("gspo", taken([4.0, 1.0, 1.1], [-1.0, -1.0, 1.0], lengths=[2, 1]))
    assert loss == pytest.approx([2.0, 2.0, -1.1]) and clipped == [0, 0, 0]
    # The loss of either token of the first answer falls with both log-probs: 2 tokens · 2 · ½ for each.
    assert gradient == pytest.approx([2.0, 2.0, -1.1])
    _, gradient, clipped = of("gspo", taken([4.0, 1.0], [1.0, 1.0]))
    assert gradient == [0.0, 0.0] and clipped == [1, 1], "an answer is clipped as a whole"


def test_cispo_by_hand():
    """-min(ρ, 1 + 0.5) · A · log π: at a ratio of 4 the weight is 1.5, and the token keeps its gradient."""
    loss, gradient, clipped = of("cispo", taken([4.0, 0.5], [2.0, -1.0], high=0.5))
    assert loss == pytest.approx([-1.5 * 2 * math.log(4), 0.5 * math.log(0.5)])
    assert gradient == pytest.approx([-3.0, 0.5]) and clipped == [1, 0]


@pytest.mark.parametrize("name", POLICY_LOSSES)
def test_where_nothing_moved_the_gradient_raises_good_answers_and_lowers_bad_ones(name):
    """-A a token, with every loss; so all of them have one fixed point."""
    _, gradient, clipped = of(name, taken([1.0] * 4, [2.0, 2.0, -0.5, -0.5], lengths=[2, 2]))
    assert gradient == pytest.approx([-2.0, -2.0, 0.5, 0.5]) and clipped == [0] * 4


@pytest.mark.parametrize("name", POLICY_LOSSES)
def test_an_answer_does_not_see_the_other_answers_nor_their_order(name):
    ratios, advantages = [1.5, 0.6, 1.1, 0.9, 2.0], [1.0, 1.0, 1.0, -1.0, -1.0]
    loss, gradient, _ = of(name, taken(ratios, advantages, lengths=[3, 2]))
    alone, own, _ = of(name, taken(ratios[:3], advantages[:3]))
    other, others, _ = of(name, taken(ratios[3:] + ratios[:3], advantages[3:] + advantages[:3], lengths=[2, 3]))
    assert loss[:3] == pytest.approx(alone) and loss[:3] == pytest.approx(other[2:])
    assert gradient[:3] == pytest.approx(own) and gradient[:3] == pytest.approx(others[2:])


@pytest.mark.parametrize("name", POLICY_LOSSES)
@pytest.mark.parametrize("log_ratio", [89.0, 1e4, -1e4])
@pytest.mark.parametrize("advantage", [1.0, -1.0, 0.0])
def test_ratios_beyond_every_number_have_finite_losses_and_gradients(name, log_ratio, advantage):
    t = taken([1.0], [advantage])
    logprob = torch.tensor([log_ratio], requires_grad=True)
    far = Taken(**{f: getattr(t, f) for f in t.__slots__} | {"logprob_N": logprob})
    loss, gradient, _ = of(name, far)
    assert math.isfinite(loss[0]) and math.isfinite(gradient[0])


def test_a_response_of_one_token_has_one_ratio_whoever_asks():
    for ratio, advantage in ((1.1, 1.0), (1.5, -1.0), (0.5, 2.0)):
        assert of("gspo", taken([ratio], [advantage])) == of("ppo", taken([ratio], [advantage]))


def test_a_constant_length_by_hand():
    """Sums 6 and 10 of two answers, a limit of 16 tokens: (6 + 10) / (2 · 16), whatever their lengths are."""
    x, branch, length = torch.tensor([1.0, 2.0, 3.0, 10.0]), torch.tensor([0, 0, 0, 1]), torch.tensor([3, 1])
    mode = "seq-mean-token-sum-norm"
    assert aggregate(x, branch, length, mode).item() / aggregate_weight(4, 2, mode, 16) == pytest.approx(0.5)
