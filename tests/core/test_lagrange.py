"""The constraint on the mean cost: the penalised reward and the step of its multiplier."""

import math

import pytest
import torch

from concordant.core.lagrange import LEAST_MULTIPLIER, dual_step, penalised

REWARD_B, COST_B = torch.tensor([2.0, 2.0, 5.0]), torch.tensor([1.0, 3.0, 1.0])


def test_penalised_rewards_by_hand():
    """(2 - 3 · (1 - 1)) / 4, (2 - 3 · (3 - 1)) / 4 and (5 - 0) / 4."""
    assert penalised(REWARD_B, COST_B, 3.0, 1.0).tolist() == [0.5, -1.0, 1.25]


def test_a_dual_step_by_hand():
    """ln λ rises by 0.5 · 2 · (1.25 - 1) = 0.25."""
    assert dual_step(2.0, 1.25, 1.0, 0.5, 10.0) == pytest.approx(2 * math.exp(0.25))


def test_the_multiplier_rises_above_the_limit_falls_below_and_rests_at_the_limit():
    assert dual_step(1.0, 1.5, 1.0, 0.1, 10.0) > 1.0 > dual_step(1.0, 0.5, 1.0, 0.1, 10.0)
    assert dual_step(1.0, 1.0, 1.0, 0.1, 10.0) == 1.0


def test_the_multiplier_stays_within_its_bounds_and_never_reaches_zero():
    assert dual_step(9.0, 1e9, 1.0, 0.1, 10.0) == pytest.approx(10.0)
    assert dual_step(1.0, -1e9, 1.0, 0.1, 10.0) == pytest.approx(LEAST_MULTIPLIER)


def test_a_cheaper_answer_is_better_and_the_limit_moves_no_difference():
    values_B = penalised(REWARD_B, COST_B, 0.5, 1.0)
    assert values_B[0] > values_B[1], "the same reward at a lower cost"
    moved_B = penalised(REWARD_B, COST_B, 0.5, 7.0)
    assert torch.allclose(values_B - values_B.mean(), moved_B - moved_B.mean())
    assert torch.equal(penalised(REWARD_B, COST_B, 0.0, 1.0), REWARD_B), "without a multiplier there is no cost"
