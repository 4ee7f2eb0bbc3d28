"""The last layer where it is read: the same numbers and gradients there, less work, and only where it was proved."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from concordant.core.trees import Layout, TreeBatch, lay_out
from concordant.engines.reward_model import RewardModel
from concordant.kernels import last_layer, packed_attention
from concordant.kernels.put_on import KERNELS, PACKED, Kernel, put_on
from concordant.kernels.reader import reader_of
from concordant.kernels.replaced import is_made_by
from concordant.models.backbone import backbone
from concordant.models.layout import check_layout
from concordant.models.load import checkpoint_activations, make_deterministic
from concordant.models.lora import apply_lora_to_model
from concordant.models.scalar_head import build_critic
from concordant.models.tree_attention import PlainReader
from tests.models import zoo

NARROWED = {  # parts of the last layer; where an architecture is missing it has the first three
    **dict.fromkeys(("Phi-3", "GPT-2"), 2),
    **dict.fromkeys(("GPT-J", "GPT-NeoX", "Falcon"), 1),
    "OPT": 0,
}


@pytest.fixture(autouse=True)
def always_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(last_layer, "WORTH", 0)


def proved(model: nn.Module) -> list[nn.Module]:
    return [part for part in last_layer.candidates(backbone(model)) if is_made_by(part, last_layer.fast)]


def read(batch: TreeBatch) -> Tensor:
    """Trunk ends stand there once a branch, and last tokens twice: as a source and as a last one."""
    return torch.cat([batch.source_N, batch.last_B])


@pytest.mark.parametrize("name", zoo.TREE)
@pytest.mark.parametrize("packed", [True, False])
def test_the_same_numbers_and_gradients(name: str, packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not packed:
        monkeypatch.setitem(KERNELS, PACKED, Kernel((), packed_attention.put_on))
    model = zoo.make(name)
    make_deterministic(model)
    assert check_layout(model) is Layout.TREE
    put_on(model)
    assert len(proved(model)) == NARROWED.get(name, 3)
    batch = lay_out(zoo.trees())
    direction = torch.randn(len(read(batch)), 32, generator=torch.Generator().manual_seed(0))

    def run(narrow: bool) -> tuple[Tensor, list[Tensor]]:
        reader = (reader_of if narrow else PlainReader)(model, Layout.TREE)
        hidden = reader.hidden_at(batch, read(batch))
        model.zero_grad(set_to_none=False)
        (hidden * direction[:, : hidden.shape[1]]).sum().backward()
        return hidden.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]

    given, wanted = run(True), run(False)
    torch.testing.assert_close(given[0], wanted[0], atol=1e-5, rtol=1e-5)
    scale = max(float(g.abs().max()) for g in wanted[1])
    for mine, theirs in zip(given[1], wanted[1], strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5 * scale, rtol=1e-4)


def test_a_fixed_number_of_places_holds_the_read_ones_first() -> None:
    """Positions 1, 4 and 5 of six are read; two places are left over, and their results go past the rows."""
    is_read_T = torch.tensor([False, True, False, False, True, True])
    places = last_layer._padded(is_read_T, 5)
    assert places.target_N.tolist() == [1, 4, 5, 6, 6] and places.source_N.tolist() == [1, 4, 5, 5, 5]
    assert last_layer._padded(is_read_T, 3).target_N.tolist() == last_layer._exactly(is_read_T).target_N.tolist()


@pytest.mark.parametrize("name", ["Llama", "GPT-2", "Mixtral"])
def test_a_fixed_number_of_places_gives_the_same_numbers_and_gradients(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This is how a GPU reads; the places that are left over add nothing to a gradient."""
    model, batch = zoo.make(name), lay_out(zoo.trees())
    make_deterministic(model)
    put_on(model)

    def run() -> list[Tensor]:
        model.zero_grad(set_to_none=False)
        hidden = reader_of(model, Layout.TREE).hidden_at(batch, read(batch))
        (hidden * torch.arange(1.0, hidden.shape[1] + 1).sin()).sum().backward()
        return [hidden.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]

    wanted = run()
    monkeypatch.setattr(last_layer, "_exactly", lambda is_read_T: last_layer._padded(is_read_T, len(read(batch)) + 3))
    for mine, theirs in zip(run(), wanted, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5 * float(theirs.abs().max() + 1), rtol=1e-4)


def rows_given(model: nn.Module, parts: list[nn.Module], batch: TreeBatch) -> list[int]:
    """Rows that the first weight of each part multiplies in a call that reads the branches' last tokens."""
    seen: list[int] = []
    linear = [next(m for m in part.modules() if isinstance(m, nn.Linear)) for part in parts]
    hooks = [m.register_forward_hook(lambda _, given, __: seen.append(given[0].shape[:-1].numel())) for m in linear]
    reader_of(model, Layout.TREE).hidden_at(batch, batch.last_B)
    for hook in hooks:
        hook.remove()
    return seen


def test_only_what_is_read_is_computed_and_copies_know_it_too() -> None:
    model = zoo.make("Llama").eval()
    put_on(model)
    batch = lay_out(zoo.trees())
    twin = copy.deepcopy(model)
    for mine in (model, twin):
        layers = backbone(mine).layers
        assert rows_given(mine, [layers[1].mlp], batch) == [len(batch.last_B)]
        assert rows_given(mine, [layers[0].mlp], batch) == [int(batch.is_token_RL.sum())]


def test_a_model_is_left_as_it_is_where_it_does_not_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(last_layer, "WORTH", 2**24)
    model = zoo.make("Llama").eval()
    put_on(model)
    batch = lay_out(zoo.trees())
    assert rows_given(model, [backbone(model).layers[1].mlp], batch) == [int(batch.is_token_RL.sum())]


def shared_mlp(model: PreTrainedModel) -> None:
    """The first layer's MLP is the last one's, so what is narrowed there changes what later tokens see."""
    layers = backbone(model).layers
    layers[0].mlp = layers[1].mlp


def does_nothing(model: PreTrainedModel) -> None:
    """Narrowing it changes no number anywhere, so nothing shows that it was narrowed."""
    layer = backbone(model).layers[1]
    with torch.no_grad():
        layer.mlp.down_proj.weight.zero_()
        layer.self_attn.o_proj.weight.zero_()


@pytest.mark.parametrize("change", [shared_mlp, does_nothing])
def test_names_are_not_believed(change: Callable[[PreTrainedModel], None]) -> None:
    model = zoo.make("Llama").eval()
    change(model)
    assert check_layout(model) is Layout.TREE
    put_on(model)
    assert proved(model) == []


def test_an_adapted_layer_is_narrowed_with_its_adapter() -> None:
    policy = zoo.policy("Llama")
    apply_lora_to_model(policy.model, None, r=2)
    put_on(policy.model)
    assert [type(part).__name__ for part in proved(policy.model)] == ["LlamaMLP", "LoRALinear", "LoRALinear"]


def test_a_reward_model_made_from_a_policy_is_narrowed_too() -> None:
    policy = zoo.policy("Llama")
    put_on(policy.model)
    made = RewardModel.from_backbone(policy)
    assert len(proved(made.model)) == 3
    assert len(proved(build_critic(made).backbone)) == 3


@pytest.mark.parametrize("name", ["Llama", "GPT-2", "Gemma 3"])
def test_layers_that_are_computed_again_are_narrowed_again(name: str) -> None:
    """The backward pass repeats the layers in the context of their call, with the same positions and segments."""
    batch = lay_out(zoo.trees())

    def gradients(recompute: bool) -> list[Tensor]:
        model = zoo.make(name)
        make_deterministic(model)
        if recompute:
            checkpoint_activations(model)
        put_on(model)
        hidden = reader_of(model, Layout.TREE).hidden_at(batch, batch.last_B)
        (hidden * torch.arange(hidden.shape[1])).sum().backward()
        return [p.grad for p in model.parameters() if p.grad is not None]

    for mine, whole in zip(gradients(True), gradients(False), strict=True):
        assert torch.equal(mine, whole)
