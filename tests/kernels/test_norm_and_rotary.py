"""Fewer steps, the same numbers and gradients, in one model's objects and no class."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.models.llama import modeling_llama

from concordant.kernels import norm, rotary
from concordant.kernels.put_on import put_on
from concordant.kernels.replaced import is_made_by
from concordant.models.backbone import run_backbone
from tests.models import zoo

IDS = torch.stack([zoo.tokens(15, 1), zoo.tokens(15, 2)])


def of_model(model: PreTrainedModel) -> tuple[Tensor, list[Tensor]]:
    hidden = run_backbone(model, IDS)
    direction = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(0))
    model.zero_grad()
    (hidden * direction).sum().backward()
    return hidden.detach(), [p.grad for p in model.parameters() if p.grad is not None]


def replaced(model: PreTrainedModel) -> set[str]:
    """Classes of the norms and attention modules that have a kernel."""
    return {type(m).__name__ for m in model.modules() if is_made_by(m, norm.fast) or is_made_by(m, rotary.fast)}


@pytest.mark.parametrize("name", zoo.ALL)
def test_numbers_and_gradients_stay(name: str) -> None:
    model = zoo.make(name).eval()
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if "norm" in key:  # ones would hide a weight that is forgotten
                weight += torch.rand(weight.shape, generator=torch.Generator().manual_seed(len(key)))
    ours = copy.deepcopy(model)
    put_on(ours)
    (wanted, gradients), (given, mine) = of_model(model), of_model(ours)
    torch.testing.assert_close(given, wanted, atol=2e-5, rtol=1e-5)
    scale = max(float(g.abs().max()) for g in gradients)
    assert scale > 0.1
    for one, other in zip(mine, gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5 * scale, rtol=1e-4)


def test_where_what_is_replaced() -> None:
    made = {name: zoo.make(name) for name in ("Llama", "Gemma 2", "Cohere", "GPT-J")}
    for model in made.values():
        put_on(model)
    assert {name: replaced(model) for name, model in made.items()} == {
        "Llama": {"LlamaRMSNorm", "LlamaAttention"},
        "Gemma 2": {"Gemma2Attention"},  # its norm multiplies by 1 + weight
        "Cohere": set(),  # pairs neighbours, not halves
        "GPT-J": set(),
    }
    assert replaced(zoo.make("Llama")) == set(), "another model of the class stays what it is"


def test_a_copy_runs_with_its_own_weights() -> None:
    model = zoo.make("Llama").eval()
    put_on(model)
    twin = copy.deepcopy(model)
    before = run_backbone(model, IDS).detach()
    with torch.no_grad():
        twin.model.norm.weight.mul_(2)
        twin.model.layers[0].self_attn.q_proj.weight.zero_()
    torch.testing.assert_close(run_backbone(model, IDS), before)
    assert not torch.allclose(run_backbone(twin, IDS), before, atol=1e-2)


def test_copies_pickles_and_memory() -> None:
    model = zoo.make("Llama").eval()
    put_on(model)
    put_on(model)  # what is done stays done
    wanted = run_backbone(model, IDS)
    again = pickle.loads(pickle.dumps(model))
    assert replaced(again) == replaced(model)
    assert torch.equal(run_backbone(again, IDS), wanted)
    norm = weakref.ref(model.model.layers[0].input_layernorm)
    gc.disable()
    try:
        del model
        assert norm() is None, "a cycle would keep weights until the next collection"
    finally:
        gc.enable()


class Gated(modeling_llama.LlamaRMSNorm):
    def forward(self, hidden_states: Tensor, gate: Tensor | None = None) -> Tensor:
        return super().forward(hidden_states) if gate is None else super().forward(hidden_states * gate)


class GateNeeded(modeling_llama.LlamaRMSNorm):
    def forward(self, hidden_states: Tensor, gate: Tensor) -> Tensor:
        return super().forward(hidden_states * gate)


class OtherEpsilon(modeling_llama.LlamaRMSNorm):
    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.weight * hidden_states * (hidden_states.square().mean(-1, keepdim=True) + 2e-6).rsqrt()


class Centred(modeling_llama.LlamaRMSNorm):
    def forward(self, hidden_states: Tensor) -> Tensor:
        return super().forward(hidden_states - hidden_states.mean(-1, keepdim=True))


@pytest.mark.parametrize("kind", [Gated, GateNeeded, OtherEpsilon, Centred])
def test_what_only_looks_like_the_norm_is_left_alone(kind: type) -> None:
    model = torch.nn.Sequential(kind(8, 1e-6), modeling_llama.LlamaRMSNorm(8, 1e-6))
    norm.put_on(model)
    assert [is_made_by(module, norm.fast) for module in model] == [False, True]


def test_norms_of_several_heads_load() -> None:
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model("cohere", **zoo.ALL["Cohere"][1] | {"use_qk_norm": True}), dtype=torch.float32
    )
    put_on(model)
    run_backbone(model, IDS)


def test_gradients_by_differences() -> None:
    """Of float64 copies of the two, so that differences are exact enough."""
    stream = torch.Generator().manual_seed(0)
    x, weight, cos, sin = (torch.rand(s, generator=stream, dtype=torch.float64) + 0.1 for s in [(2, 3, 8), 8, 8, 8])
    x.requires_grad_()
    weight.requires_grad_()
    assert torch.autograd.gradcheck(lambda x, w: norm._RMSNorm.apply(x, w, 1e-3), (x, weight))
    assert torch.autograd.gradcheck(lambda x: rotary._Rotary.apply(x, cos, sin), (x,))


def test_other_dtypes_and_learned_angles_run_as_they_did() -> None:
    model = zoo.make("Llama").eval().bfloat16()
    wanted = run_backbone(model, IDS)
    put_on(model)
    assert torch.equal(run_backbone(model, IDS), wanted)

    q = torch.rand(1, 2, 3, 8, generator=torch.Generator().manual_seed(0))
    cos = torch.rand(1, 3, 8)
    forward = rotary._with_our_rotary(modeling_llama.LlamaAttention.forward)
    assert forward is not None
    rotate = forward.__globals__["apply_rotary_pos_emb"]
    learned = cos.clone().requires_grad_()
    for given in (cos, learned):  # a gradient for the angles is what transformers' own gives
        for mine, theirs in zip(
            rotate(q, q, given, cos), modeling_llama.apply_rotary_pos_emb(q, q, given, cos), strict=True
        ):
            torch.testing.assert_close(mine, theirs)
    rotate(q, q, learned, cos)[0].sum().backward()
    assert learned.grad is not None


def test_gpt2s_activation_is_one_operation_and_the_same_function() -> None:
    model = zoo.make("GPT-2").eval()
    wanted = run_backbone(model, IDS)
    put_on(model)
    assert [type(block.mlp.act) for block in model.transformer.h] == [torch.nn.GELU] * 2
    torch.testing.assert_close(run_backbone(model, IDS), wanted, atol=2e-6, rtol=1e-5)
