"""The last layer where it is read: the same numbers and gradients there, less work, and only where it was proved."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import zoo
from torch import Tensor, nn
from transformers import PreTrainedModel

from concordant.core.trees import Layout, TreeBatch, lay_out
from concordant.models import last_layer, packed_attention
from concordant.models.layout import check_layout, decide_layout
from concordant.models.load import checkpoint_activations
from concordant.models.lora import apply_lora_to_model
from concordant.models.reward_model import RewardModel
from concordant.models.scalar_head import build_critic
from concordant.models.tree_attention import backbone, hidden_at, hidden_states

NARROWED = {  # parts of the last layer; where an architecture is missing it has the first three
    **dict.fromkeys(("Phi-3", "GPT-2"), 2),
    **dict.fromkeys(("GPT-J", "GPT-NeoX", "Falcon"), 1),
    "OPT": 0,
}


@pytest.fixture(autouse=True)
def always_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(last_layer, "WORTH", 0)


def proved(model: nn.Module) -> list[nn.Module]:
    parts = last_layer.candidates(backbone(model))
    return [part for part in parts if last_layer.PROVED in vars(last_layer._bearer(part))]


def read(batch: TreeBatch) -> Tensor:
    """Trunk ends stand there once a branch, and last tokens twice: as a source and as a last one."""
    return torch.cat([batch.source_N, batch.last_B])


@pytest.mark.parametrize("name", zoo.TREE)
@pytest.mark.parametrize("packed", [True, False])
def test_the_same_numbers_and_gradients(name: str, packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not packed:
        monkeypatch.setattr(packed_attention, "can_run", lambda model: False)
    model = zoo.make(name).eval()
    assert decide_layout(model) is Layout.TREE
    assert len(proved(model)) == NARROWED.get(name, 3)
    batch = lay_out(zoo.trees())
    direction = torch.randn(len(read(batch)), 32, generator=torch.Generator().manual_seed(0))

    def run(narrow: bool) -> tuple[Tensor, list[Tensor]]:
        if narrow:
            hidden = hidden_at(model, batch, Layout.TREE, read(batch))
        else:
            hidden = hidden_states(model, batch, Layout.TREE).flatten(0, 1)[read(batch)]
        model.zero_grad(set_to_none=False)
        (hidden * direction[:, : hidden.shape[1]]).sum().backward()
        return hidden.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]

    given, wanted = run(True), run(False)
    torch.testing.assert_close(given[0], wanted[0], atol=1e-5, rtol=1e-5)
    scale = max(float(g.abs().max()) for g in wanted[1])
    for mine, theirs in zip(given[1], wanted[1], strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5 * scale, rtol=1e-4)


def rows_given(model: nn.Module, parts: list[nn.Module], batch: TreeBatch) -> list[int]:
    seen: list[int] = []
    hooks = [p.register_forward_hook(lambda _, given, __: seen.append(given[0].shape[:-1].numel())) for p in parts]
    hidden_at(model, batch, Layout.TREE, batch.last_B)
    for hook in hooks:
        hook.remove()
    return seen


def test_only_what_is_read_is_computed_and_copies_know_it_too() -> None:
    model = zoo.make("Llama").eval()
    decide_layout(model)
    batch = lay_out(zoo.trees())
    twin = copy.deepcopy(model)
    for mine in (model, twin):
        layers = backbone(mine).layers
        assert rows_given(mine, [layers[1].mlp, layers[1].self_attn.o_proj], batch) == [len(batch.last_B)] * 2
        assert rows_given(mine, [layers[0].mlp], batch) == [int(batch.is_token_RL.sum())]


def test_a_model_is_left_as_it_is_where_it_does_not_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(last_layer, "WORTH", 2**24)
    model = zoo.make("Llama").eval()
    decide_layout(model)
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
    assert decide_layout(model) is Layout.TREE
    assert proved(model) == []


def test_adapters_and_checks_leave_the_decision_as_it_was() -> None:
    """Otherwise a resumed run would narrow what the whole one did not, and its dropout would draw other numbers."""
    policy = zoo.policy("Llama")
    apply_lora_to_model(policy.model, None, r=2)
    before = proved(policy.model)
    assert [type(part).__name__ for part in before] == ["LlamaMLP", "LoRALinear", "LoRALinear"]
    fresh = zoo.make("Llama")
    assert check_layout(fresh) is Layout.TREE
    assert proved(fresh) == []


def test_a_reward_model_made_from_a_policy_is_narrowed_too() -> None:
    made = RewardModel.from_backbone(zoo.policy("Llama"))
    assert len(proved(made.model)) == 3
    assert len(proved(build_critic(made).backbone)) == 3


def test_nothing_is_narrowed_where_layers_are_computed_again() -> None:
    model = zoo.make("Llama").train()
    decide_layout(model)
    checkpoint_activations(model)
    batch = lay_out(zoo.trees())
    assert rows_given(model, [backbone(model).layers[1].mlp], batch) == [batch.ids_RL.numel()]
    hidden_at(model, batch, Layout.TREE, batch.last_B).sum().backward()
