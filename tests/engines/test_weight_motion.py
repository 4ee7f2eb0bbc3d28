"""How far a step moves the weights: by hand, and what counts as standing still."""

import pytest
import torch
from torch import nn

from concordant.engines.local.weight_motion import SAMPLE, WeightMotion


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(2, 2, bias=False)
        self.score = nn.Linear(2, 1, bias=False)
        nn.init.constant_(self.body.weight, 3.0)  # norm 6
        nn.init.constant_(self.score.weight, 4.0)  # norm √32


def motion(model, move):
    watch = WeightMotion(dict(model.named_parameters()))
    before = watch.before()
    with torch.no_grad():
        move(model)
    return watch.after(before)


def test_the_ratio_by_hand():
    def move(model):
        model.body.weight[0, 0] += 3.0  # change 3; the norms are then √(3·9 + 36 + 32) and, of the head, √32

    seen = motion(Small(), move)
    assert seen["update/ratio"] == pytest.approx(3 / 95**0.5)
    assert (seen["update/head"], seen["update/still"]) == (0.0, 0.5)


def test_a_head_that_starts_at_zero_moves_by_all_of_itself():
    model = Small()
    nn.init.zeros_(model.score.weight)
    assert motion(model, lambda m: m.score.weight.add_(1.0))["update/head"] == pytest.approx(1.0)


def test_a_frozen_weight_is_looked_at_too():
    model = Small()
    model.body.weight.requires_grad = False
    assert motion(model, lambda m: m.score.weight.add_(1.0))["update/still"] == 0.5


def test_with_adapters_the_base_is_not_meant_to_move():
    model = Small()
    model.lora_A = nn.Linear(2, 2, bias=False)
    seen = motion(model, lambda m: (m.lora_A.weight.add_(1.0), m.score.weight.add_(1.0)))
    assert seen["update/still"] == 0.0


def test_large_tensors_are_sampled_over_their_whole_length():
    model = nn.Linear(SAMPLE, 4, bias=False)
    assert motion(model, lambda m: m.weight[3].add_(1.0))["update/still"] == 0.0


def test_a_model_without_a_scalar_head_says_nothing_of_one():
    assert "update/head" not in motion(nn.Linear(2, 2), lambda m: m.weight.add_(1.0))


def test_parts_of_a_tensor_give_the_samples_of_the_whole():
    """Seven rows on two ranks, more elements than are sampled."""
    torch.manual_seed(0)
    whole = torch.randn(7, 300)
    watch = WeightMotion({"w": whole})
    parts = [
        WeightMotion({"w": part}, {"w": (first * 300, whole.numel())}).before()
        for first, part in ((0, whole[:4]), (4, whole[4:]))
    ]
    assert torch.equal(torch.cat(parts), watch.before()) and len(watch.before()) == SAMPLE
