"""The optimizers: first steps by hand, which weights Muon takes, exact state, and LoRA+'s ratio."""

import pytest
import torch
from torch import nn

from concordant.config.train import TrainConfig
from concordant.engines.local.learner import LocalLearner
from concordant.engines.local.networks import PolicyNetwork
from concordant.engines.local.optimizer import Together, hidden_matrices, numbers_kept, optimizer_of, set_rate
from tests.engines.conformance.test_learner import pairs
from tests.engines.tiny import tiny_policy

NAMES = ("adamw", "muon", "adafactor")


def learner_of(name, rank=0, **settings):
    config = TrainConfig(optimizer=name, learning_rate=1e-2, max_grad_norm=0.0, **settings)
    return LocalLearner(PolicyNetwork(tiny_policy(lora_rank=rank)), config)


def steps(learner, count, rate=1e-2):
    from concordant.algorithms.sft import SFTObjective

    losses = []
    for _ in range(count):
        losses.append(learner.forward_backward(pairs(), SFTObjective()).result()["loss"])
        learner.step(rate).result()
    return losses


@pytest.mark.parametrize(("name", "rank"), [("adamw", 4), ("muon", 0), ("muon", 4), ("adafactor", 0)])
def test_every_optimizer_learns_and_its_state_gives_the_same_next_step(name, rank, tmp_path):
    one, two = learner_of(name, rank), learner_of(name, rank)
    losses = steps(one, 6)
    assert losses[-1] < losses[0] - 0.05
    one.save(tmp_path)
    two.load(tmp_path)
    assert steps(one, 2) == steps(two, 2)
    assert all(torch.equal(p, two.trained[key]) for key, p in one.trained.items())
    kept = sum(x.numel() for values in one.optimizer.state.values() for x in values.values())
    shapes = {key: (p.numel(), p.shape) for key, p in one.trained.items()}
    counted = numbers_kept(shapes, one.config, one.hidden)
    assert 0 <= kept - counted <= len(shapes), "AdamW keeps the number of the step too"


def test_muon_takes_the_matrices_of_the_layers_and_leaves_the_rest_to_adamw():
    network = PolicyNetwork(tiny_policy())
    hidden = hidden_matrices(network)
    shapes = {name: p.ndim for name, p in network.named_parameters()}
    assert hidden == {name for name, ndim in shapes.items() if ".layers." in name and ndim == 2}
    assert not any("embed" in name or "lm_head" in name for name in hidden)
    optimizer = learner_of("muon").optimizer
    assert isinstance(optimizer, Together) and [type(p).__name__ for p in optimizer.parts] == ["Muon", "AdamW"]


def test_an_embedding_inside_a_layer_is_no_matrix_for_muon():
    """Such as one of relative positions: a step reads a few of its rows, and Muon would turn all of them."""
    layer = nn.ModuleDict({"positions": nn.Embedding(4, 3), "product": nn.Linear(3, 3)})
    assert hidden_matrices(nn.ModuleDict({"layers": nn.ModuleList([layer])})) == {"layers.0.product.weight"}


def test_muons_first_step_is_orthogonal_and_as_large_as_adamws():
    """A gradient of two unlike directions moves the weight in both alike: 0.2 · √8 times the rate a direction."""
    weight = nn.Parameter(torch.zeros(8, 2))
    optimizer = optimizer_of({"w": weight}, TrainConfig(optimizer="muon"), {"w"})
    weight.grad = torch.zeros(8, 2)
    weight.grad[0, 0], weight.grad[1, 1] = 5.0, 0.5
    set_rate(optimizer, 0.1)
    optimizer.step()
    size = 0.1 * 0.2 * 8**0.5
    assert -weight[0, 0].item() == pytest.approx(size, rel=0.35) and -weight[1, 1].item() == pytest.approx(
        size, rel=0.35
    )
    assert weight.detach().abs().sum() < 2.7 * size, "nothing else moves"


def test_adafactors_first_step_is_relative_to_the_weights():
    """Of a matrix with the root mean square 2 and an even gradient, every weight moves by rate · 2."""
    weight = nn.Parameter(torch.full((3, 4), 2.0))
    optimizer = optimizer_of({"w": weight}, TrainConfig(optimizer="adafactor"))
    weight.grad = torch.full((3, 4), 0.7)
    set_rate(optimizer, 0.01)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.full((3, 4), 2.0 - 0.02))


def test_only_matrices_decay():
    for name in NAMES:
        groups = optimizer_of({"w": nn.Parameter(torch.ones(2, 2)), "v": nn.Parameter(torch.ones(2))},
                              TrainConfig(optimizer=name, weight_decay=0.1), {"w"}).param_groups  # fmt: skip
        decay = {p.ndim: group["weight_decay"] for group in groups for p in group["params"]}
        assert decay == {2: 0.1, 1: 0.0}, name


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_lora_plus_gives_b_a_multiple_of_the_rate(name):
    plain, plus = learner_of(name, 4), learner_of(name, 4, lora_plus=8.0)
    start = {key: p.detach().clone() for key, p in plain.trained.items()}
    for learner in (plain, plus):
        steps(learner, 1)
    moved = {key: (plus.trained[key] - start[key], plain.trained[key] - start[key]) for key in start}
    for key, (fast, slow) in moved.items():
        torch.testing.assert_close(fast, 8.0 * slow if key.endswith("lora_B") else slow, atol=2e-5, rtol=1e-4)
    assert any(key.endswith("lora_B") and fast.abs().max() > 0 for key, (fast, _) in moved.items())
