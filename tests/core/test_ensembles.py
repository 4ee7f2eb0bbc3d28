"""One number from the scores of an ensemble's members. K members, B answers."""

import pytest
import torch

from concordant.core.ensembles import ENSEMBLES, bootstrap_weights, disagreement
from concordant.core.seeding import torch_stream

SCORES_KB = torch.tensor([[1.0, 5.0], [3.0, 5.0]])


@pytest.mark.parametrize(
    ("name", "expected"), [("mean", [2.0, 5.0]), ("minimum", [1.0, 5.0]), ("mean-std", [1.5, 5.0])]
)
def test_two_members_by_hand(name, expected):
    assert ENSEMBLES[name](SCORES_KB, 0.5).tolist() == expected
    assert disagreement(SCORES_KB).tolist() == [1.0, 0.0]


@pytest.mark.parametrize("name", ENSEMBLES)
def test_the_order_of_the_members_does_not_matter_and_one_member_is_itself(name):
    score_KB = torch.randn(4, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.allclose(ENSEMBLES[name](score_KB, 2.0), ENSEMBLES[name](score_KB.flip(0), 2.0))
    assert torch.equal(ENSEMBLES[name](score_KB[:1], 2.0), score_KB[0])


@pytest.mark.parametrize("name", ENSEMBLES)
def test_a_better_score_by_all_members_is_better_and_no_member_alone_raises_the_worst_case(name):
    assert torch.allclose(ENSEMBLES[name](SCORES_KB + 1, 1.0), ENSEMBLES[name](SCORES_KB, 1.0) + 1)
    fooled_KB = SCORES_KB + torch.tensor([[0.0], [4.0]])  # the second member alone likes the answers more
    gain_B = ENSEMBLES[name](fooled_KB, 1.0) - ENSEMBLES[name](SCORES_KB, 1.0)
    assert bool((gain_B > 0).all() if name == "mean" else (gain_B <= 0).all())


def test_more_deviations_are_more_careful():
    less, more = (ENSEMBLES["mean-std"](SCORES_KB, k) for k in (0.0, 1.0))
    assert torch.equal(less, ENSEMBLES["mean"](SCORES_KB, 0.0)) and more[0] < less[0] and more[1] == less[1]


def test_bootstrap_weights_are_poisson_and_a_stream_repeats_them():
    weight_PK = bootstrap_weights(4000, 3, torch_stream(0, "test"))
    assert torch.equal(weight_PK, bootstrap_weights(4000, 3, torch_stream(0, "test")))
    assert not torch.equal(weight_PK, bootstrap_weights(4000, 3, torch_stream(1, "test")))
    assert torch.allclose(weight_PK.mean(0), torch.ones(3), atol=0.05)
    assert torch.allclose((weight_PK == 0).float().mean(0), torch.full((3,), 0.3679), atol=0.03), "e⁻¹ are never drawn"
    assert torch.corrcoef(weight_PK.T)[0, 1].abs() < 0.05, "members see different pairs"
