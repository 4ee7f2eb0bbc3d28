"""Policies with an adapter: which base it belongs to, what trains, and what is exported."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from concordant.config.model import LoraConfig, ModelConfig
from concordant.core.errors import UserError
from concordant.models.load import Policy, load_policy, save_policy, save_policy_adapter
from concordant.models.lora import lora_layers
from concordant.models.peft_files import save_adapter
from tests.models import zoo
from tests.models.policies import IDS, load, message, with_trained_adapter


def test_lora_trains_the_adapter_alone_and_exports_merged(saved: Path, tmp_path: Path) -> None:
    policy = with_trained_adapter(saved)
    assert all("lora_" in name for name, p in policy.model.named_parameters() if p.requires_grad)
    save_policy(policy, tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    wanted = policy.model(IDS).logits
    assert not torch.allclose(wanted, load(saved).model(IDS).logits, atol=1e-3)
    torch.testing.assert_close(merged(IDS).logits, wanted, atol=5e-5, rtol=0)


def test_an_adapter_names_a_base_that_is_found_from_any_folder(
    saved: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(saved.parent)
    policy = load_policy(ModelConfig(name=saved.name, lora=LoraConfig(rank=2)))
    assert policy.adapter_base == str(saved.resolve())
    save_policy_adapter(policy, tmp_path / "adapter")
    monkeypatch.chdir(tmp_path)
    assert load_policy(ModelConfig(name="adapter")).adapter_base == policy.adapter_base
    assert load(saved).adapter_base == ""  # no adapter


def test_an_adapter_folder_loads_its_base(saved: Path, tmp_path: Path) -> None:
    policy = with_trained_adapter(saved)
    save_adapter(policy.model, tmp_path / "adapter", base_name=str(saved))
    for config in (
        ModelConfig(name=str(tmp_path / "adapter")),
        ModelConfig(adapter=str(tmp_path / "adapter")),
        ModelConfig(name=str(saved), adapter=str(tmp_path / "adapter")),
    ):
        assert torch.equal(load_policy(config).model(IDS).logits, policy.model(IDS).logits)


def test_a_new_adapter_beside_an_adapter_folder_is_refused(saved: Path, tmp_path: Path) -> None:
    policy = load_policy(ModelConfig(name=str(saved), lora=LoraConfig(rank=2)))
    save_adapter(policy.model, tmp_path / "adapter", base_name=str(saved))
    with pytest.raises(
        UserError, match="training continues with it: leave model.lora.rank 0, or set model.lora.on_top"
    ):
        load_policy(ModelConfig(name=str(tmp_path / "adapter"), lora=LoraConfig(rank=2)))


def test_a_new_adapter_over_a_merged_one_starts_as_it_and_trains_alone(saved: Path, tmp_path: Path) -> None:
    first = with_trained_adapter(saved)
    save_adapter(first.model, tmp_path / "adapter", base_name=str(saved))
    lora = LoraConfig(rank=4, on_top=True)
    for config in (
        ModelConfig(name=str(tmp_path / "adapter"), lora=lora),
        ModelConfig(name=str(saved), adapter=str(tmp_path / "adapter"), lora=lora),
    ):
        model = load_policy(config).model
        torch.testing.assert_close(model(IDS).logits, first.model(IDS).logits, atol=5e-5, rtol=0)
        assert {layer.adapter("default").r for layer in lora_layers(model).values()} == {4}
        assert all("lora_" in name for name, p in model.named_parameters() if p.requires_grad)
    with pytest.raises(UserError, match="model.lora.on_top: there is no adapter to merge"):
        load_policy(ModelConfig(name=str(saved), lora=lora))


def test_an_adapter_whose_base_is_gone_or_another(saved: Path, tmp_path: Path) -> None:
    policy = with_trained_adapter(saved)
    save_adapter(policy.model, tmp_path / "adapter", base_name="/nowhere/base")
    assert 'no folder "/nowhere/base"' in message(tmp_path / "adapter")
    wider = zoo.make("Llama", vocab_size=len(policy.tokenizer), hidden_size=64)
    save_policy(Policy(model=wider, tokenizer=policy.tokenizer, traits=policy.traits, name=""), tmp_path / "wider")
    assert "another base" in message(tmp_path / "wider", adapter=str(tmp_path / "adapter"))


def test_the_settings_of_a_new_adapter_are_all_followed(saved: Path) -> None:
    lora = LoraConfig(rank=3, alpha=5.0, dropout=0.25, target_modules=["q_proj", "mlp.up_proj"])
    layers = lora_layers(load(saved, lora=lora).model)
    assert {path.rpartition(".")[2] for path in layers} == {"q_proj", "up_proj"}
    made = [layer.adapter("default") for layer in layers.values()]
    assert {(a.r, a.alpha, a.dropout.p) for a in made} == {(3, 5.0, 0.25)}
