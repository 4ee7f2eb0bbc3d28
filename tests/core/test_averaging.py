"""The average of several models' weights."""

import pytest
import torch

from concordant.core.averaging import averaged, cosine


def test_an_average_by_hand_and_whole_numbers_stay():
    models = [{"w": torch.tensor([1.0, 4.0]), "steps": torch.tensor(3)}, {"w": torch.tensor([3.0, 0.0])}]
    made = averaged(models)
    assert made["w"].tolist() == [2.0, 2.0] and made["w"].dtype == torch.float32 and int(made["steps"]) == 3


def test_equal_models_give_the_same_bits_and_the_order_does_not_matter():
    a, b = ({"w": torch.randn(9, generator=torch.Generator().manual_seed(i))} for i in (0, 1))
    assert torch.equal(averaged([a, a, a])["w"], a["w"])
    assert torch.equal(averaged([a, b])["w"], averaged([b, a])["w"])


def test_the_cosine_of_all_tensors_together():
    """(3 · 3 + 4 · 0) / (5 · 3)."""
    a, b = {"x": torch.tensor([3.0]), "y": torch.tensor([4.0])}, {"x": torch.tensor([3.0]), "y": torch.tensor([0.0])}
    assert cosine(a, b, ["x", "y"]) == pytest.approx(0.6) and cosine(a, b, ["x"]) == pytest.approx(1.0)
    assert cosine(a, {"x": torch.tensor([-1.0])}, ["x"]) == pytest.approx(-1.0)
    assert cosine(b, b, ["y"]) == 0.0, "no length, no direction"
