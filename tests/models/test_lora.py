"""LoRA on a model: what is adapted, what is trained, what stays as it was."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
)
from transformers import LlamaForSequenceClassification as LlamaForScore

from concordant.core.errors import UserError
from concordant.models.lora import (
    LoRALinear,
    active_adapter,
    apply_lora_to_model,
    copy_adapter,
    find_target_modules,
    get_lora_parameters,
    merge_lora_weights,
    merged_state_dict,
    print_trainable_parameters,
    remove_adapter,
    set_active_adapter,
)

LLAMA = LlamaConfig(
    vocab_size=61,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    pad_token_id=0,
)
GPT2 = GPT2Config(
    vocab_size=61, n_embd=16, n_layer=2, n_head=4, n_positions=32, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0
)
IDS = torch.tensor([[5, 9, 2, 44, 17], [3, 3, 8, 60, 1]])


def llama() -> LlamaForCausalLM:
    torch.manual_seed(1)
    return LlamaForCausalLM(LLAMA).eval()


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(2)
    return GPT2LMHeadModel(GPT2).eval()


def mamba() -> MambaForCausalLM:
    torch.manual_seed(3)
    config = MambaConfig(vocab_size=61, hidden_size=16, state_size=4, num_hidden_layers=2, time_step_rank=2)
    return MambaForCausalLM(config).eval()


MODELS: list[Callable[[], PreTrainedModel]] = [llama, gpt2]
both = pytest.mark.parametrize("make", MODELS, ids=["llama", "gpt2"])


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    return model(IDS).logits


def wake(model: nn.Module, name: str = "default", seed: int = 7) -> None:
    """Give B numbers, as training would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in get_lora_parameters(model, name)[1::2]:
            parameter.normal_(0, 0.3, generator=generator)


def digest(parameters: Sequence[Tensor]) -> str:
    return hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in parameters)).hexdigest()


def base_parameters(model: nn.Module) -> list[Tensor]:
    return [p for name, p in model.named_parameters() if ".adapters." not in name]


def train(model: nn.Module, parameters: list[nn.Parameter], steps: int = 3) -> None:
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    for _ in range(steps):
        model(IDS, labels=IDS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


# -- finding layers -------------------------------------------------------------------------------


def test_targets_are_found_by_the_end_of_their_path() -> None:
    found = find_target_modules(gpt2(), ["c_attn", "mlp.c_proj"])
    assert found == [f"transformer.h.{i}.{name}" for i in (0, 1) for name in ("attn.c_attn", "mlp.c_proj")]


def test_without_names_every_linear_layer_but_the_head_is_adapted() -> None:
    names = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    torch.manual_seed(0)
    for model in (llama(), LlamaForScore(LLAMA)):
        assert {path.rpartition(".")[2] for path in find_target_modules(model)} == set(names)
        assert len(find_target_modules(model, [])) == 14
    assert len(find_target_modules(gpt2())) == 2 * 4


@pytest.mark.parametrize("names", ["all-linear", ["all-linear"]])
def test_all_linear_is_every_linear_layer_of_the_backbone(names: str | list[str]) -> None:
    assert find_target_modules(gpt2(), names) == find_target_modules(gpt2())


def test_names_may_be_given_in_one_text_with_commas() -> None:
    assert find_target_modules(gpt2(), ["c_attn, mlp.c_proj"]) == find_target_modules(gpt2(), ["c_attn", "mlp.c_proj"])
    report = apply_lora_to_model(gpt2(), ["c_attn,mlp.c_proj"])
    assert (len(report.modules), report.not_adapted) == (4, [])


def test_heads_beside_a_backbone_are_left_alone() -> None:
    model = nn.ModuleDict({"backbone": llama().model, "reward_head": nn.Linear(16, 1)})
    assert all(path.startswith("backbone.") for path in find_target_modules(model))
    plain = nn.ModuleDict({"body": nn.Linear(4, 4), "score": nn.Linear(4, 1)})
    assert find_target_modules(plain) == ["body"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["c_atn"], 'no module is called "c_atn". Did you mean "c_attn"'),
        (["wte"], "transformer.wte is of type Embedding and not a linear layer"),
        (["lm_head"], "its weight is tied to transformer.wte.weight"),
        ("c_attn", 'expected a list of names, such as ["c_attn"]'),
        (["all-linear", "c_attn"], "all-linear already means all; give it alone"),
    ],
)
def test_a_wrong_target_is_named(names: list[str], message: str) -> None:
    model = gpt2()
    with pytest.raises(UserError) as error:
        apply_lora_to_model(model, names)
    assert message in str(error.value)
    with pytest.raises(UserError, match="rank 0"):
        apply_lora_to_model(model, r=0)
    with pytest.raises(UserError, match=f"has rank {model.config.n_embd} at most.*model.lora.rank to"):
        apply_lora_to_model(model, r=model.config.n_embd + 1)
    assert all(p.requires_grad for p in model.parameters())


def test_experts_that_are_3d_parameters_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    config = MixtralConfig(**{k: v for k, v in LLAMA.to_diff_dict().items() if k != "model_type"}, num_local_experts=2)
    report = apply_lora_to_model(MixtralForCausalLM(config), r=2)
    experts = {path.rpartition(".")[2] for path in report.not_adapted if ".experts." in path}
    assert experts == {"gate_up_proj", "down_proj"}
    assert "LoRA adapts linear layers only" in caplog.text
    with pytest.raises(UserError, match="3-D parameter"):
        apply_lora_to_model(MixtralForCausalLM(config), ["gate_up_proj"])
    assert apply_lora_to_model(llama(), r=2).not_adapted == []


# -- training -------------------------------------------------------------------------------------


@both
def test_gradient_reaches_every_adapter_weight_and_nothing_else(make: Callable[[], PreTrainedModel]) -> None:
    model = make()
    report = apply_lora_to_model(model, r=2)
    wake(model)  # a zero B would give A a gradient of exactly 0
    lora = get_lora_parameters(model)
    assert len(lora) == 2 * len(report.modules)
    assert {id(p) for p in model.parameters() if p.requires_grad} == {id(p) for p in lora}
    model(IDS, labels=IDS).loss.backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in lora)
    assert all(p.grad is None for p in base_parameters(model))


def test_gradient_reaches_layers_whose_weight_is_read_directly() -> None:
    model = mamba()
    apply_lora_to_model(model, ["dt_proj"], r=2)
    wake(model)
    model(IDS, labels=IDS).loss.backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in get_lora_parameters(model))


@both
def test_reference_never_moves(make: Callable[[], PreTrainedModel]) -> None:
    model = make()
    start, frozen = logits(model), digest(base_parameters(model))
    apply_lora_to_model(model, r=4)
    assert torch.equal(logits(model), start)  # KL is 0 at step 0
    train(model, get_lora_parameters(model))
    with active_adapter(model, None):
        assert torch.equal(logits(model), start)
    assert digest(base_parameters(model)) == frozen
    assert (logits(model) - start).abs().max() > 1e-3  # and greater after


def test_named_adapters_are_independent() -> None:
    model = llama()
    apply_lora_to_model(model, r=2, name="policy")
    apply_lora_to_model(model, ["q_proj"], r=4, name="critic")
    wake(model, "policy", 1)
    wake(model, "critic", 2)
    critic, policy = logits(model), digest(get_lora_parameters(model, "policy"))
    train(model, get_lora_parameters(model, "critic"))
    assert digest(get_lora_parameters(model, "policy")) == policy
    assert (logits(model) - critic).abs().max() > 1e-3
    with active_adapter(model, "policy"):
        before = logits(model)
        with active_adapter(model, "critic"), pytest.raises(ZeroDivisionError), active_adapter(model, None):
            raise ZeroDivisionError
        assert torch.equal(logits(model), before)
    assert len(get_lora_parameters(model)) == 2 * (14 + 2)


def test_a_second_adapter_leaves_an_unfrozen_head_trainable() -> None:
    model = LlamaForScore(LLAMA)
    apply_lora_to_model(model, r=2, name="policy")
    assert not model.score.weight.requires_grad
    model.score.requires_grad_(True)
    apply_lora_to_model(model, r=2, name="reward")
    assert model.score.weight.requires_grad


def test_a_copy_stays_where_sft_left_it() -> None:
    model = llama()
    apply_lora_to_model(model, r=2, dropout=0.5)
    wake(model)
    copy_adapter(model, "default", "reference")
    with active_adapter(model, "reference"):
        model.train()
        start = logits(model)
        assert torch.equal(logits(model), start)  # no dropout in a reference, whatever the mode
        assert not any(p.requires_grad for p in get_lora_parameters(model, "reference"))
    train(model, get_lora_parameters(model, "default"))
    with active_adapter(model, "reference"):
        assert torch.equal(logits(model), start)
    remove_adapter(model, "reference")
    with pytest.raises(UserError, match='unknown adapter "reference". Known: default'):
        set_active_adapter(model, "reference")


def test_seed_and_name_decide_the_start_and_layers_differ() -> None:
    def first(name: str = "a", seed: int = 0) -> list[nn.Parameter]:
        model = llama()
        apply_lora_to_model(model, ["q_proj"], r=2, name=name, seed=seed)
        return get_lora_parameters(model)

    assert digest(first()) == digest(first())
    assert len({digest(first()), digest(first("b")), digest(first(seed=1))}) == 3
    assert not torch.equal(first()[0], first()[2])


def test_wrapping_keeps_the_mode_and_a_taken_name_is_refused() -> None:
    model = gpt2()
    apply_lora_to_model(model, r=2)
    assert not any(module.training for module in model.modules())
    with pytest.raises(UserError, match='already has an adapter "default"'):
        apply_lora_to_model(model, r=2)
    with pytest.raises(UserError, match='already has an adapter "default"'):
        copy_adapter(model, "default", "default")
    with pytest.raises(UserError, match="no adapters"):
        set_active_adapter(llama(), None)


# -- merging --------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [llama, gpt2, mamba])
def test_merged_equals_unmerged(make: Callable[[], PreTrainedModel], tmp_path: Path) -> None:
    model = make()
    names, start = list(model.state_dict()), logits(model)
    apply_lora_to_model(model, r=4)
    wake(model)
    adapted = logits(model)
    assert (adapted - start).abs().max() > 1e-2
    model.save_pretrained(tmp_path, state_dict=merged_state_dict(model, "default"))
    assert torch.equal(logits(model), adapted)  # the model keeps its adapters
    merge_lora_weights(model)
    assert list(model.state_dict()) == names
    assert not any(isinstance(module, LoRALinear) for module in model.modules())
    torch.testing.assert_close(logits(model), adapted, atol=1e-5, rtol=0)
    exported = type(model).from_pretrained(tmp_path).eval()
    torch.testing.assert_close(logits(exported), adapted, atol=1e-5, rtol=0)


def test_merging_takes_one_adapter_and_the_base_export_is_the_base() -> None:
    model, base = llama(), llama().state_dict()
    apply_lora_to_model(model, r=2, name="policy")
    apply_lora_to_model(model, ["q_proj"], r=2, name="critic")
    wake(model, "policy", 1)
    wake(model, "critic", 2)
    plain = merged_state_dict(model, None)
    assert plain.keys() == base.keys() and all(torch.equal(plain[key], base[key]) for key in base)
    set_active_adapter(model, "critic")
    critic = logits(model)
    set_active_adapter(model, "policy")
    merge_lora_weights(model, "critic")
    torch.testing.assert_close(logits(model), critic, atol=1e-5, rtol=0)


# -- counting -------------------------------------------------------------------------------------


def test_c_attn_of_gpt2_small_trains_half_a_percent(capsys: pytest.CaptureFixture[str]) -> None:
    """Seed 002 says 1-3 %. By hand: 12 layers · (16 · 768 + 2304 · 16) = 589,824 of 124,439,808 + 589,824: 0.47 %."""
    with torch.device("meta"):
        model = GPT2LMHeadModel(GPT2Config())
    apply_lora_to_model(model, target_modules=["c_attn"], r=16)
    assert print_trainable_parameters(model) == (589_824, 125_029_632)
    assert capsys.readouterr().out == "trainable: 589,824 || all: 125,029,632 || 0.47 %\n"
