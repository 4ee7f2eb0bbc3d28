"""Gradients added where they are kept: the same sums, no second gradient, and nothing changed outside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from concordant.kernels.weight_gradients import CASTS_FROM, FORWARDS, gradients_in_place, put_on
from concordant.models.lora import apply_lora_to_model
from tests.models import zoo

BATCHES = [torch.stack([zoo.tokens(9, 2 * i), zoo.tokens(9, 2 * i + 1)]) for i in range(3)]


def after_three_passes(model: PreTrainedModel) -> dict[str, Tensor]:
    model.zero_grad()
    for ids in BATCHES:
        logits = model(input_ids=ids).logits
        direction = torch.randn(logits.shape, generator=torch.Generator().manual_seed(int(ids.sum())))
        (logits * direction).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", zoo.ALL)
def test_three_passes_add_up_to_autograds_gradient(name: str) -> None:
    model = zoo.make(name).eval()
    put_on(model)
    wanted = after_three_passes(model)
    with gradients_in_place():
        given = after_three_passes(model)
    assert given.keys() == wanted.keys()
    scale = max(float(g.abs().max()) for g in wanted.values())
    for key, gradient in wanted.items():
        torch.testing.assert_close(given[key], gradient, atol=1e-5 * scale, rtol=1e-4, msg=key)


@pytest.mark.parametrize("name", ["Llama", "GPT-2"])
def test_under_autocast_they_are_as_near_to_the_gradient_in_fp32_as_autograds(name: str) -> None:
    model = zoo.make(name).eval()
    put_on(model)
    exact = after_three_passes(model)
    with torch.autocast("cpu", torch.bfloat16):
        theirs = after_three_passes(model)
        with gradients_in_place():
            ours = after_three_passes(model)
    for key, gradient in exact.items():
        mistake, allowed = (ours[key] - gradient).norm(), (theirs[key] - gradient).norm()
        assert ours[key].dtype == torch.float32
        assert mistake < 1.1 * allowed, key
    assert any(not torch.equal(ours[key], theirs[key]) for key in exact)


@pytest.mark.parametrize("autocast", [False, True])
def test_adapters_gradients_are_added_in_place_too(autocast: bool) -> None:
    model = zoo.make("Llama").eval()
    apply_lora_to_model(model, r=2)
    put_on(model)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    seen: list[Tensor | None] = []
    for name, p in trained.items():
        p.register_hook(seen.append)
        if name.endswith("lora_B"):  # 0 at the start, where A has no gradient
            nn.init.normal_(p, std=0.1, generator=torch.Generator().manual_seed(p.numel()))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        wanted = after_three_passes(model)
        seen.clear()
        with gradients_in_place():
            given = after_three_passes(model)
    assert len(seen) == len(BATCHES) * len(trained)
    assert all(gradient is None for gradient in seen), "autograd made one"
    for key in trained:
        torch.testing.assert_close(given[key], wanted[key], atol=1e-5, rtol=0.01 if autocast else 1e-4, msg=key)


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(4, 3),
    "linear without bias": lambda: nn.Linear(4, 3, bias=False),
    "Conv1D": lambda: Conv1D(3, 4),
    "embedding": lambda: nn.Embedding(5, 4),
    "embedding with padding": lambda: nn.Embedding(5, 4, padding_idx=1),
    "embedding by frequency": lambda: nn.Embedding(5, 4, scale_grad_by_freq=True),
}


def layer_and_input(name: str, shape: tuple[int, ...] = (2, 3)) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    outer = nn.Sequential(LAYERS[name]())
    put_on(outer)
    if "embedding" in name:
        return outer[0], torch.tensor([[1, 2, 2], [4, 1, 0]])
    return outer[0], torch.randn(*shape, 4)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_by_itself(name: str) -> None:
    layer, x = layer_and_input(name)

    def gradients() -> list[Tensor]:
        layer.zero_grad()
        given = x.clone().requires_grad_() if x.is_floating_point() else x
        for factor in (1.0, -3.0):
            layer(given).mul(factor).square().sum().backward()
        return [p.grad.clone() for p in layer.parameters()] + ([given.grad] if given.grad is not None else [])

    wanted = gradients()
    with gradients_in_place():
        for mine, theirs in zip(gradients(), wanted, strict=True):
            torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("name", ["linear", "Conv1D"])
def test_no_rows_give_no_rows_and_no_gradient(name: str) -> None:
    layer, x = layer_and_input(name, (2, 0))
    for autocast in (False, True):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            assert layer(x).shape == (2, 0, 3)
    with gradients_in_place():
        layer(x).sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in layer.parameters())


def test_a_sampler_in_bf16_multiplies_in_few_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """oneDNN compiles code for each, and how many rows there are changes with every response that ends."""
    layer, _ = layer_and_input("linear")
    theirs, seen = nn.functional.linear, set[int]()

    def linear(x: Tensor, *rest: Any) -> Tensor:
        seen.add(len(x))
        return theirs(x, *rest)

    monkeypatch.setattr(nn.functional, "linear", linear)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for rows in range(1, CASTS_FROM):
            x = torch.randn(rows, 1, 4)
            torch.testing.assert_close(layer(x), theirs(x, layer.weight, layer.bias), atol=0.02, rtol=0.02)
    assert len(seen) <= 5


def test_the_kept_gradient_stays_the_tensor_it_is() -> None:
    for name in ("linear", "Conv1D", "embedding"):
        layer, x = layer_and_input(name)
        with gradients_in_place():
            layer(x).sum().backward()
            kept = layer.weight.grad
            layer(x).sum().backward()
        assert layer.weight.grad is kept
        layer(x).sum().backward()  # outside autograd adds, to the same tensor
        expected = torch.autograd.grad(layer(x).sum(), layer.weight)[0]
        torch.testing.assert_close(kept, 3 * expected)


def test_outside_nothing_differs() -> None:
    """Hooks see the gradient, ``torch.autograd.grad`` finds it, second derivatives exist."""
    layer, x = layer_and_input("linear")
    seen: list[Tensor] = []
    layer.weight.register_hook(seen.append)
    (first,) = torch.autograd.grad(layer(x).pow(3).sum(), layer.weight, create_graph=True)
    assert len(seen) == 1
    assert layer.weight.grad is None
    (second,) = torch.autograd.grad(first.sum(), layer.weight)
    assert second.abs().max() > 0


def test_what_has_no_gradient_gets_none() -> None:
    layer, x = layer_and_input("linear")
    with gradients_in_place():
        with torch.no_grad():
            assert not layer(x).requires_grad
        layer.weight.requires_grad_(False)
        layer(x).sum().backward()
        assert layer.weight.grad is None
        assert layer.bias.grad is not None


@pytest.mark.parametrize("shape", [(), (5,), (2, 1, 3)])
def test_inputs_of_any_shape(shape: tuple[int, ...]) -> None:
    layer, x = layer_and_input("linear", shape)
    wanted = torch.autograd.grad(layer(x).square().sum(), layer.weight)[0]
    with gradients_in_place():
        layer(x).square().sum().backward()
    torch.testing.assert_close(layer.weight.grad, wanted)


def test_under_autocast_and_with_recomputation() -> None:
    layer, x = layer_and_input("linear")
    with gradients_in_place():
        with torch.autocast("cpu", torch.bfloat16):
            layer(x).float().sum().backward()
        rounded = layer.weight.grad.clone()
        layer.zero_grad()
        checkpoint(layer, x, use_reentrant=False).sum().backward()
    torch.testing.assert_close(rounded, layer.weight.grad, atol=0.05, rtol=0.05)
    torch.testing.assert_close(layer.weight.grad, x.sum((0, 1)).expand(3, -1))


@pytest.mark.parametrize("name", ["Llama", "GPT-2"])
def test_autograd_makes_no_gradient_of_a_linear_layer_or_an_embedding(name: str) -> None:
    """Its hooks would see one, as they do outside."""
    model = zoo.make(name)
    put_on(model)
    weights = {id(m.weight): m.weight for m in model.modules() if isinstance(m, tuple(FORWARDS))}
    seen: list[Tensor | None] = []  # None where autograd has none
    for weight in weights.values():
        weight.register_hook(seen.append)
    model(input_ids=BATCHES[0]).logits.sum().backward()
    assert len(seen) == len(weights) >= 10
    assert all(gradient is not None for gradient in seen)
    seen.clear()
    with gradients_in_place():
        model(input_ids=BATCHES[0]).logits.sum().backward()
    assert all(gradient is None for gradient in seen)


def test_the_row_of_a_padding_token_stays_at_rest() -> None:
    """As in PyTorch: the row of ``padding_idx`` gets no gradient, however often it is read."""
    table = nn.Embedding(6, 3, padding_idx=2)
    put_on(table)
    ids = torch.tensor([[1, 2, 2], [5, 1, 2]])
    (table(ids) * torch.arange(1.0, 4.0)).sum().backward()
    wanted, table.weight.grad = table.weight.grad, None
    with gradients_in_place():
        (table(ids) * torch.arange(1.0, 4.0)).sum().backward()
    assert torch.equal(table.weight.grad, wanted) and not wanted[2].any() and wanted[1].tolist() == [2.0, 4.0, 6.0]
