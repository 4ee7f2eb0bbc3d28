import math

import pytest
import torch

from concordant.core import pair_losses
from concordant.core.pair_losses import F_DIVERGENCES, PREFERENCE_LOSSES, PreferenceLoss, RatedLoss

OF_PAIRS = {name: loss for name, loss in PREFERENCE_LOSSES.items() if isinstance(loss, PreferenceLoss)}
RATED = {name: loss for name, loss in PREFERENCE_LOSSES.items() if isinstance(loss, RatedLoss)}


def numbers(*values):
    return torch.tensor(values, requires_grad=True)


def test_cdpo_label_smoothing_worked_number():
    # z = 1: -0.9 log σ(1) - 0.1 log σ(-1) = 0.9·0.313262 + 0.1·1.313262
    assert pair_losses.sigmoid_dpo(torch.tensor([2.0]), 0.5, 0.1).item() == pytest.approx(0.413262, abs=1e-6)
    assert pair_losses.sigmoid_dpo(torch.tensor([2.0]), 0.5, 0.0).item() == pytest.approx(0.313262, abs=1e-6)


def test_sigmoid_dpo_is_ln2_at_the_start_and_its_gradient_raises_the_chosen():
    ratio = torch.zeros(1, requires_grad=True)
    loss = pair_losses.sigmoid_dpo(ratio, 0.1)
    assert loss.item() == pytest.approx(math.log(2))
    loss.backward()
    assert ratio.grad.item() == pytest.approx(-0.05)  # -β/2


def test_robust_dpo_is_unbiased_under_flips():
    z = torch.tensor([0.7])
    clean = pair_losses.sigmoid_dpo(z, 1.0)
    flipped = 0.8 * pair_losses.robust_dpo(z, 1.0, 0.2) + 0.2 * pair_losses.robust_dpo(-z, 1.0, 0.2)
    assert torch.allclose(flipped, clean, atol=1e-6)


def test_ipo_worked_number_and_minimum():
    assert pair_losses.ipo(torch.tensor([3.0]), 0.5).item() == pytest.approx(4.0)  # (3 - 1)²
    assert pair_losses.ipo(torch.tensor([1.0]), 0.5).item() == 0.0


def test_which_losses_take_means_over_tokens():
    means = {name for name, loss in PREFERENCE_LOSSES.items() if loss.length_mean}
    assert means == {"ipo", "sigmoid_norm", "simpo", "orpo"}


def test_ipo_with_smoothed_labels_aims_at_less():
    """With a share ε of flipped labels the loss is least at (1-2ε)/(2β); at ε 0.25 and β 0.5 that is 0.5, not 1."""
    logratio = torch.tensor([0.4, 0.5, 0.6], requires_grad=True)
    pair_losses.ipo(logratio, beta=0.5, label_smoothing=0.25).sum().backward()
    assert logratio.grad.tolist() == pytest.approx([-0.2, 0.0, 0.2], abs=1e-6)


# x of the chosen answer is 1, of the rejected one -0.5: the difference h is 1.5. σ(0.5) = 0.62246, σ(0.25) = 0.56218,
# σ(0.75) = 0.67918, -log σ(0.75) = 0.38687, -log σ(0.5) = 0.47408, -log σ(0.25) = 0.57594.
@pytest.mark.parametrize(
    ("loss", "margin", "value"),
    [
        ("sigmoid", 0.0, 0.38687),
        ("sigmoid", 0.5, 0.57594),  # -log σ(0.75 - 0.5)
        ("sigmoid_norm", 0.0, 0.38687),
        ("simpo", 0.5, 0.57594),
        ("cpo", 0.0, 0.38687),
        ("hinge", 0.0, 0.25),  # 1 - 0.75
        ("hinge", 0.5, 0.75),
        ("slic", 0.0, 0.25),
        ("apo_zero", 0.0, 0.81536),  # 1 - σ(0.5) + σ(-0.25)
        ("apo_down", 0.0, 0.94328),  # σ(0.5) + 1 - σ(0.75)
        ("bco_pair", 0.0, 1.05002),  # 0.47408 + 0.57594
    ],
)
def test_worked_numbers_of_pairs(loss, margin, value):
    found = OF_PAIRS[loss](torch.tensor([1.0]), torch.tensor([-0.5]), 0.5, 0.0, margin)
    assert found.item() == pytest.approx(value, abs=1e-5)


def test_orpo_compares_odds():
    """Probabilities a token of 0.8 and 0.5 have odds 4 and 1; -0.5 log σ(log 4) = 0.5 log(1 + 1/4)."""
    chosen, rejected = torch.tensor([0.8]).log(), torch.tensor([0.5]).log()
    assert pair_losses.orpo(chosen, rejected, 0.5).item() == pytest.approx(0.5 * math.log(1.25), abs=1e-6)


@pytest.mark.parametrize(("loss", "value"), [("kto", 0.43782), ("apo_zero_unpaired", 0.43782), ("bco", 0.57594)])
def test_worked_numbers_of_rated_answers(loss, value):
    """A lead of 0.5 nats and β 0.5: 1 - σ(0.25), and -log σ(0.25)."""
    assert RATED[loss].of(torch.tensor([0.5]), 0.5).item() == pytest.approx(value, abs=1e-5)


@pytest.mark.parametrize("loss", [name for name in OF_PAIRS if name != "apo_down"])
def test_the_gradient_raises_the_chosen_and_lowers_the_rejected(loss):
    chosen, rejected = numbers(-0.4), numbers(-0.6)
    OF_PAIRS[loss](chosen, rejected, 0.5).sum().backward()
    assert chosen.grad.item() < 0 < rejected.grad.item()


def test_apo_down_lets_the_chosen_fall_once_it_leads():
    """d/dx [σ(z) + 1 - σ(z - r)] is β (σ'(z) - σ'(z - r)), above 0 where the pair is told apart."""
    chosen, rejected = numbers(0.0), numbers(-4.0)
    pair_losses.apo_down(chosen, rejected, 1.0).sum().backward()
    assert chosen.grad.item() == pytest.approx(0.25 - 0.01766, abs=1e-5)  # σ'(0) - σ'(4)
    assert rejected.grad.item() == pytest.approx(0.01766, abs=1e-5)


def test_apo_downs_best_chosen_answer_has_fallen_half_as_far_and_nothing_ends_the_fall():
    """Beside a rejected z' the best z is z'/2, of the loss 1 + σ(z'/2) - σ(-z'/2), which falls with z'."""
    lower = 2.0
    for rejected in (-1.0, -4.0, -10.0):
        chosen = numbers(rejected / 2 - 0.2, rejected / 2, rejected / 2 + 0.2)
        found = pair_losses.apo_down(chosen, torch.tensor([rejected]), 1.0)
        found.sum().backward()
        assert chosen.grad[0].item() < 0 < chosen.grad[2].item() and chosen.grad[1].item() == pytest.approx(0, abs=1e-6)
        assert found[1].item() == pytest.approx(1 - math.tanh(-rejected / 4), abs=1e-6)
        assert 0 < found[1].item() < lower
        lower = found[1].item()


@pytest.mark.parametrize("loss", RATED)
def test_the_gradient_raises_a_lead_and_huge_leads_are_finite(loss):
    lead = numbers(0.3, 1e4, -1e4, 0.0)
    found = RATED[loss].of(lead, 0.5)
    found.sum().backward()
    assert lead.grad[0].item() < 0 and torch.isfinite(found).all() and torch.isfinite(lead.grad).all()


@pytest.mark.parametrize("loss", OF_PAIRS)
def test_every_pair_counts_by_itself(loss):
    chosen, rejected, of = torch.tensor([-0.1, -2.0, -0.7]), torch.tensor([-0.3, -0.2, -0.7]), OF_PAIRS[loss]
    assert torch.equal(of(chosen.flip(0), rejected.flip(0), 0.5, 0.1), of(chosen, rejected, 0.5, 0.1).flip(0))


@pytest.mark.parametrize("loss", [name for name in OF_PAIRS if name != "robust"])
def test_labels_half_wrong_cannot_tell_the_sides(loss):
    chosen, rejected, of = torch.tensor([-0.1, -2.0, -0.7]), torch.tensor([-0.3, -0.2, -0.7]), OF_PAIRS[loss]
    assert torch.allclose(of(chosen, rejected, 0.5, 0.5), of(rejected, chosen, 0.5, 0.5), atol=1e-6)


@pytest.mark.parametrize("loss", [name for name, loss in OF_PAIRS.items() if loss.of])
def test_losses_of_a_difference_do_not_see_a_shift_of_both_sides(loss):
    chosen, rejected, of = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0]), OF_PAIRS[loss]
    assert torch.allclose(of(chosen + 7, rejected + 7, 0.3, 0.1), of(chosen, rejected, 0.3, 0.1), atol=1e-5)


@pytest.mark.parametrize("loss", OF_PAIRS)
def test_huge_margins_and_equal_answers_are_finite(loss):
    most = 0.0 if loss == "orpo" else 1e4  # its log-probs are never above 0
    for sides in ((most, -1e4), (-1e4, most), (0.0, 0.0), (-1e4, -1e4), (0.0, -1e-9)):
        chosen, rejected = numbers(sides[0]), numbers(sides[1])
        found = OF_PAIRS[loss](chosen, rejected, 0.5, 0.1)
        found.sum().backward()
        assert torch.isfinite(torch.cat([found.detach(), chosen.grad, rejected.grad])).all(), sides


def test_a_soft_label_is_the_mean_over_the_people():
    """Three of four people chose the first answer: 0.75 of its loss and 0.25 of that of the swapped pair."""
    chosen, rejected, wrong = torch.tensor([1.0, 1.0]), torch.tensor([-0.5, -0.5]), torch.tensor([0.25, 0.5])
    for loss in ("sigmoid", "hinge", "apo_zero", "simpo", "ipo"):
        of = OF_PAIRS[loss]
        one, other = of(chosen, rejected, 0.5)[0], of(rejected, chosen, 0.5)[0]
        expected = torch.stack([0.75 * one + 0.25 * other, 0.5 * one + 0.5 * other])
        assert torch.allclose(of(chosen, rejected, 0.5, wrong), expected, atol=1e-6)


def test_a_tie_asks_for_equal_answers():
    chosen, rejected = numbers(0.0), numbers(0.0)
    OF_PAIRS["sigmoid"](chosen, rejected, 0.5, torch.tensor([0.5])).sum().backward()
    assert chosen.grad.item() == rejected.grad.item() == 0.0


@pytest.mark.parametrize(
    ("name", "alpha", "value"),
    [
        ("reverse_kl", 0.5, 0.693147),  # log u
        ("forward_kl", 0.5, 0.5),  # 1 - 1/u
        ("js_divergence", 0.5, 0.287682),  # log(2u / (1 + u)) = log(4/3)
        ("alpha_divergence", 0.5, 0.585786),  # (u^-0.5 - 1) / -0.5
        ("alpha_divergence", 0.0, 0.5),  # the forward KL
        ("alpha_divergence", 1.0, 0.693147),  # the reverse KL
        ("alpha_divergence", 2.0, 1.0),  # u - 1
    ],
)
def test_derivatives_of_divergences_at_a_ratio_of_2(name, alpha, value):
    logratio = numbers(math.log(2))
    found = F_DIVERGENCES[name](logratio, alpha)
    found.sum().backward()
    assert found.item() == pytest.approx(value, abs=1e-6) and logratio.grad.item() > 0


@pytest.mark.parametrize("name", F_DIVERGENCES)
def test_a_divergence_compares_every_answer_by_itself_and_keeps_their_order(name):
    logratio = torch.tensor([-3.0, -0.5, 0.0, 0.4, 2.0])
    found = F_DIVERGENCES[name](logratio, 0.5)
    assert (found.diff() > 0).all()
    assert torch.allclose(found.flip(0), F_DIVERGENCES[name](logratio.flip(0), 0.5))


@pytest.mark.parametrize("name", F_DIVERGENCES)
def test_divergences_are_0_where_the_policies_agree_and_finite_far_away(name):
    assert F_DIVERGENCES[name](torch.zeros(1), 0.5).item() == pytest.approx(0.0, abs=1e-7)
    far = numbers(300.0, -300.0)
    loss = OF_PAIRS["sigmoid"].of(F_DIVERGENCES[name](far, 0.5).diff(), 0.1)
    loss.sum().backward()
    assert torch.isfinite(loss).all() and torch.isfinite(far.grad).all()
