"""A base of four bits under an adapter: its weights beside bitsandbytes', memory, gradients, training and export."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from transformers.pytorch_utils import Conv1D

from concordant.algorithms.sft import SFTObjective
from concordant.config.model import LoraConfig, ModelConfig
from concordant.config.train import TrainConfig
from concordant.core.errors import UserError
from concordant.core.objective import Outputs
from concordant.engines.local.learner import LocalLearner
from concordant.engines.local.networks import PolicyNetwork
from concordant.engines.local.precision import place
from concordant.engines.tensor.cuts import weights_of
from concordant.models.four_bits import keep_base_in_four_bits
from concordant.models.load import load_policy, save_policy
from concordant.models.lora import (
    apply_lora_to_model,
    get_lora_parameters,
    lora_layers,
    merge_lora_weights,
    merged_state_dict,
)
from concordant.models.peft_files import load_adapter, save_adapter
from concordant.models.quantized import NF4Linear, TableHead, bytes_of_base
from tests.engines.conformance.test_learner import pairs
from tests.engines.tiny import tiny_policy

bnb = pytest.importorskip("bitsandbytes")
IDS = torch.tensor([[5, 9, 2, 44, 17], [3, 3, 8, 60, 1]])


def llama(tied: bool = False) -> LlamaForCausalLM:
    torch.manual_seed(1)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=80, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, tie_word_embeddings=tied,
        )
    ).eval()  # fmt: skip


def gpt2(**sizes: int) -> GPT2LMHeadModel:
    torch.manual_seed(2)
    usual = {"vocab_size": 80, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    return GPT2LMHeadModel(GPT2Config(**{**usual, **sizes})).eval()


each = pytest.mark.parametrize("make", [llama, lambda: llama(tied=True), gpt2], ids=["llama", "tied", "gpt2"])


def in_four_bits(model: Any, **settings: Any) -> Any:
    apply_lora_to_model(model, **{"r": 4, "alpha": 8.0, **settings})
    keep_base_in_four_bits(model, fresh=True)
    return model


@pytest.mark.parametrize("kind", [nn.Linear, Conv1D])
@pytest.mark.parametrize("size", [(96, 40), (65, 7)])  # rows that are no multiple of a block
def test_each_weight_is_the_nearest_of_sixteen_and_products_and_gradients_are_theirs(kind, size):
    torch.manual_seed(0)
    plain = nn.Linear(*size) if kind is nn.Linear else Conv1D(*size[::-1])
    with torch.no_grad():
        plain.weight.normal_(0, 0.02)
    weight_OI = plain.weight.detach() if kind is nn.Linear else plain.weight.detach().T.contiguous()
    code = bnb.functional.get_4bit_type("nf4", device="cpu")
    blocks = nn.functional.pad(weight_OI.flatten(), (0, -weight_OI.numel() % 64)).view(-1, 64)
    greatest = blocks.abs().amax(1, keepdim=True)
    nearest = code[((blocks / greatest)[..., None] - code).abs().argmin(-1)] * greatest
    theirs = nearest.flatten()[: weight_OI.numel()].view(weight_OI.shape)
    layer, x = NF4Linear(plain), torch.randn(7, size[0], requires_grad=True)
    assert layer.weight.shape == plain.weight.shape
    torch.testing.assert_close(layer.whole(), theirs)
    assert 0.07 < (theirs - weight_OI).norm() / weight_OI.norm() < 0.11
    layer(x).square().sum().backward()
    other = x.detach().clone().requires_grad_()
    out = other @ theirs.T + plain.bias.detach()
    out.square().sum().backward()
    torch.testing.assert_close(layer(x), out, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(x.grad, other.grad, atol=1e-5, rtol=1e-5)
    back = layer.plain()
    assert type(back) is kind and torch.equal(back.weight, layer.weight) and torch.equal(back.bias, plain.bias)


@each
def test_a_head_in_bf16_gives_fp32_logits_and_the_gradient_of_its_input(make):
    model = in_four_bits(make())
    head = model.get_output_embeddings()
    assert isinstance(head, TableHead)
    assert (head.stored is model.get_input_embeddings().stored) == bool(model.config.tie_word_embeddings)
    hidden = torch.randn(3, 32, requires_grad=True)
    logits = head(hidden)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, hidden @ head.stored.float().T)
    logits.square().sum().backward()
    torch.testing.assert_close(hidden.grad, 2 * logits.detach() @ head.stored.float(), atol=1e-5, rtol=1e-4)


@each
def test_the_adapter_alone_is_trained_and_the_merged_model_computes_the_same(make, tmp_path):
    """The plain model is the adapter over the rounded weights, in fp32 and in the layout of the architecture."""
    model = in_four_bits(make())
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {
        name for name, _ in model.named_parameters() if "lora_" in name
    }
    with torch.no_grad():
        for p in get_lora_parameters(model):
            p.normal_(0, 0.1, generator=torch.Generator().manual_seed(p.numel()))
        wanted = model(IDS).logits
        plain = make()
        assert not torch.allclose(plain(IDS).logits, wanted, atol=1e-3)
        state = merged_state_dict(model, "default")
        assert state.keys() == plain.state_dict().keys() and {w.dtype for w in state.values()} == {torch.float32}
        plain.load_state_dict(state)
        torch.testing.assert_close(plain(IDS).logits, wanted, atol=1e-5, rtol=1e-4)
        save_adapter(model, tmp_path, "the-base")
        again = make()
        load_adapter(again, tmp_path)
        keep_base_in_four_bits(again, fresh=False)
        torch.testing.assert_close(again(IDS).logits, wanted, atol=1e-5, rtol=1e-4)
        merge_lora_weights(model)
        torch.testing.assert_close(model(IDS).logits, wanted, atol=1e-5, rtol=1e-4)


def test_memory_of_gpt2s_shape_is_at_most_three_tenths():
    """All weights of the base are counted, those of twelve layers as twelve times those of one. An adapter is not."""
    model = gpt2(vocab_size=50257, n_embd=768, n_layer=1, n_head=12, n_positions=1024)

    def whole() -> int:
        return bytes_of_base(model) + 11 * bytes_of_base(model.transformer.h[0])

    full = whole()
    assert full == 4 * 124_439_808
    in_four_bits(model)
    matrices, table, positions, vectors = 12 * 12 * 768**2, 50257 * 768, 1024 * 768, 12 * 13 * 768 + 2 * 768
    codes = 12 * 4 * 16 * 4  # the sixteen values that four bits mean, kept by each layer
    assert whole() == matrices // 2 + 4 * matrices // 64 + 2 * table + 4 * (positions + vectors) + codes
    assert whole() / full < 0.3


@pytest.mark.parametrize("kernels", ["plain", "fast"])
def test_a_learner_trains_it_with_and_without_kernels_to_nearly_the_same_loss(kernels, tmp_path):
    """Beside fp32 from the same start, after 20 steps; and the state gives the same next step."""

    def learner(quantize: bool) -> LocalLearner:
        policy = tiny_policy(hidden_size=64)
        apply_lora_to_model(policy.model, r=8)
        if quantize:
            keep_base_in_four_bits(policy.model, fresh=True)
        place(policy.model, ModelConfig("x", device="cpu", kernels=kernels))
        return LocalLearner(PolicyNetwork(policy), TrainConfig())

    def step(one: LocalLearner) -> float:
        loss = one.forward_backward(pairs(), SFTObjective()).result()["loss"]
        one.step(1e-2).result()
        return loss

    full, small, again = learner(False), learner(True), learner(True)
    losses = [[step(one) for _ in range(20)] for one in (full, small)]
    assert losses[0][-1] < losses[0][0] - 0.3 and losses[1][-1] == pytest.approx(losses[0][-1], rel=0.02)
    small.save(tmp_path)
    again.load(tmp_path)
    assert step(small) == step(again)
    assert small.describe().weights == full.describe().weights, "weights in few bits are weights"
    assert weights_of(small.network) == weights_of(full.network)
    before = again.reference().forward(pairs(), Outputs(logprob=True)).result().logprob_N
    step(again)
    assert torch.equal(before, again.reference().forward(pairs(), Outputs(logprob=True)).result().logprob_N)


@pytest.mark.parametrize("settings", [{"dora": True}, {"start": "pissa"}])
def test_dora_and_pissa_begin_before_the_weights_are_rounded(settings):
    """PiSSA rounds the rest, which is smaller, so the start is nearer to the base; DoRA's start is the rounded base."""
    plain, model = llama(), in_four_bits(llama(), **settings)
    rounded = in_four_bits(llama())
    with torch.no_grad():
        wanted, found, other = (m(IDS).logits for m in (plain, model, rounded))
    if "dora" in settings:
        torch.testing.assert_close(found, other, atol=1e-5, rtol=1e-4)
    else:
        assert (found - wanted).norm() < (other - wanted).norm()


def test_a_trained_dora_keeps_its_lengths_when_its_base_is_rounded():
    """Those of a new one are the lengths of the rounded rows."""
    model = llama()
    apply_lora_to_model(model, r=4, dora=True)
    adapter = next(iter(lora_layers(model).values())).adapter("default")
    with torch.no_grad():
        adapter.lora_magnitude.fill_(7.0)
    keep_base_in_four_bits(model, fresh=False)
    assert (adapter.lora_magnitude == 7.0).all()


def test_products_have_the_precision_of_autocast():
    layer, x = NF4Linear(nn.Linear(64, 8)), torch.randn(3, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    assert layer(x).dtype == torch.float32


def test_it_is_refused_without_an_adapter_and_without_bitsandbytes(monkeypatch):
    with pytest.raises(UserError, match="only a frozen base can be kept in four bits; set model.lora.rank"):
        keep_base_in_four_bits(llama(), fresh=True)
    with pytest.raises(UserError, match="PiSSA takes a part out of the base, which has four bits already"):
        apply_lora_to_model(in_four_bits(llama()), r=2, name="more", start="pissa")
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes.functional", None)
    with pytest.raises(
        UserError, match=r"model.quantize nf4 needs the package bitsandbytes: pip install 'concordant\[qlora\]'"
    ):
        in_four_bits(llama())


def test_a_config_keeps_the_base_in_four_bits_and_the_folder_is_plain(tmp_path):
    save_policy(tiny_policy(), tmp_path / "base")
    config = ModelConfig(str(tmp_path / "base"), device="cpu", quantize="nf4", lora=LoraConfig(rank=4))
    policy = load_policy(config)
    assert any(isinstance(module, NF4Linear) for module in policy.model.modules())
    save_policy(policy, tmp_path / "merged")
    plain = load_policy(ModelConfig(str(tmp_path / "merged"), device="cpu")).model
    ids = torch.arange(10, 20)[None]
    with torch.no_grad():
        torch.testing.assert_close(plain(ids).logits, policy.model(ids).logits, atol=1e-5, rtol=1e-4)
    twin = copy.deepcopy(policy.model)
    with torch.no_grad():
        assert torch.equal(twin(ids).logits, policy.model(ids).logits)
