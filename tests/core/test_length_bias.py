"""The part of a score that length explains."""

import pytest
import torch

from concordant.core.length_bias import length_slope, without_length

LENGTH_B, GROUP_B = torch.tensor([4.0, 6.0, 10.0, 20.0]), torch.tensor([0, 0, 1, 1])


def test_the_slope_of_two_pairs_by_hand():
    """Centred lengths ∓1 and ∓5, centred scores ∓1 and ∓10: (2 · 1 + 2 · 50) / (2 · 1 + 2 · 25)."""
    score_B = torch.tensor([0.0, 2.0, 100.0, 120.0])
    assert length_slope(score_B, LENGTH_B, GROUP_B) == pytest.approx(102 / 52)


def test_a_pure_taste_for_length_is_found_and_nothing_is_left():
    score_B = 0.3 * LENGTH_B + torch.tensor([5.0, 5.0, -7.0, -7.0])  # every prompt has a level of its own
    slope = length_slope(score_B, LENGTH_B, GROUP_B)
    assert slope == pytest.approx(0.3)
    left_B = without_length(score_B, LENGTH_B, slope, 10.0)
    assert torch.allclose(left_B, torch.tensor([8.0, 8.0, -4.0, -4.0]))
    assert length_slope(left_B, LENGTH_B, GROUP_B) == pytest.approx(0.0, abs=1e-6)
    assert float(left_B[2]) == pytest.approx(float(score_B[2])), "an answer of the mean length keeps its score"


def test_answers_of_equal_length_say_nothing_about_length():
    assert length_slope(torch.tensor([1.0, 9.0]), torch.tensor([5.0, 5.0]), torch.tensor([0, 0])) == 0.0
