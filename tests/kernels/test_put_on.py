"""Kernels are put on where they serve the device, once, and can be left off."""

from __future__ import annotations

import copy

import pytest
import torch

from concordant.config.model import ModelConfig
from concordant.core.objective import Outputs
from concordant.core.trees import Layout
from concordant.engines.local.precision import place
from concordant.kernels.put_on import KERNELS, Kernel, kernels_of, put_on
from concordant.kernels.reader import FastReader, reader_of
from concordant.models.backbone import backbone
from concordant.models.tree_attention import PlainReader
from tests.models import zoo


def test_the_switch() -> None:
    plain, fast = zoo.make("Llama"), zoo.make("Llama")
    kinds = [type(module) for module in plain.modules()]
    place(plain, ModelConfig(kernels="plain"))
    place(fast, ModelConfig(device="cpu"))
    assert not kernels_of(plain) and [type(module) for module in plain.modules()] == kinds
    assert plain.config._attn_implementation == "sdpa"
    assert isinstance(reader_of(plain, Layout.TREE), PlainReader)
    assert kernels_of(fast) and isinstance(reader_of(fast, Layout.TREE), FastReader)


def test_only_kernels_that_serve_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, kernel in list(KERNELS.items()):
        monkeypatch.setitem(KERNELS, name, Kernel(("another",), kernel.put_on))
    model = zoo.make("Llama")
    put_on(model)
    assert not kernels_of(model)


def test_a_second_time_changes_nothing_and_copies_carry_them() -> None:
    model = zoo.make("Llama")
    put_on(model)
    kinds = [type(module) for module in model.modules()]
    put_on(model)
    twin = copy.deepcopy(model)
    for mine in (model, twin):
        assert [type(module) for module in mine.modules()] == kinds
        assert kernels_of(mine) == kernels_of(model)
    assert kernels_of(copy.deepcopy(backbone(model))) == kernels_of(model), "a critic is made of the backbone alone"


@pytest.mark.parametrize("name", zoo.ALL)
def test_a_model_of_any_architecture_gives_the_same_logprobs(name: str) -> None:
    from concordant.engines.local.networks import PolicyNetwork
    from concordant.models.load import Policy, make_deterministic
    from concordant.models.traits import prepare_model

    model = zoo.make(name)
    make_deterministic(model)
    traits = prepare_model(model)
    fast = copy.deepcopy(model)
    put_on(fast)
    numbers = []
    for mine in (model, fast):
        network = PolicyNetwork(Policy(model=mine, tokenizer=None, traits=traits, name=name))  # type: ignore[arg-type]
        (batch,) = network.batches(zoo.trees(), 2**20)
        out = network(batch, Outputs(logprob=True, entropy=True))
        assert out.logprob_N is not None and out.entropy_N is not None
        in_order_N = torch.empty(len(out.logprob_N)).index_copy(0, batch.token_N, out.logprob_N.detach())
        (out.logprob_N.sum() + 0.3 * out.entropy_N.sum()).backward()
        gradient = mine.get_input_embeddings().weight.grad
        assert isinstance(gradient, torch.Tensor)
        numbers.append((in_order_N, gradient))
    torch.testing.assert_close(numbers[1][0], numbers[0][0], atol=2e-5, rtol=1e-5)
    scale = float(numbers[0][1].abs().max())
    torch.testing.assert_close(numbers[1][1], numbers[0][1], atol=1e-5 * scale, rtol=1e-4)
