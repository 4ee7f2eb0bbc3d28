"""Adapter files against PEFT itself, both ways, and everything that must be refused.

H hidden size.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from transformers import (
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedModel,
)

from concordant.core.errors import UserError
from concordant.models.lora import (
    active_adapter,
    apply_lora_to_model,
    get_lora_parameters,
    set_active_adapter,
)
from concordant.models.peft_files import load_adapter, save_adapter

LLAMA: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "num_labels": 1,
}
IDS = torch.tensor([[5, 9, 2, 44, 17], [3, 3, 8, 60, 1]])


def llama(**changes: int) -> LlamaForCausalLM:
    torch.manual_seed(1)
    return LlamaForCausalLM(LlamaConfig(**{**LLAMA, **changes})).eval()


def scorer() -> LlamaForSequenceClassification:
    torch.manual_seed(1)
    return LlamaForSequenceClassification(LlamaConfig(**LLAMA)).eval()


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(2)
    return GPT2LMHeadModel(GPT2Config(vocab_size=61, n_embd=16, n_layer=2, n_head=4, n_positions=32)).eval()


both = pytest.mark.parametrize("make", [llama, gpt2])


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    return model(IDS).logits


def wake(parameters: Sequence[Tensor], seed: int = 7) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in parameters:
            parameter.normal_(0, 0.3, generator=generator)


def adapted(make: Callable[[], PreTrainedModel], **settings: Any) -> PreTrainedModel:
    model = make()
    apply_lora_to_model(model, **{"r": 4, "alpha": 8.0, **settings})
    wake(get_lora_parameters(model))
    return model


def peft_adapter(model: PreTrainedModel, folder: Path, **settings: Any) -> Tensor:
    """Let PEFT make, perturb and save an adapter of ``model``; its logits."""
    peft = pytest.importorskip("peft")
    wrapped = peft.get_peft_model(model, peft.LoraConfig(**{"r": 4, "lora_alpha": 8, **settings})).eval()
    wake([p for name, p in wrapped.named_parameters() if "lora_" in name or "modules_to_save" in name])
    # "auto" would ask the hub whether the vocabulary was resized.
    wrapped.save_pretrained(folder, save_embedding_layers="embed_tokens" in settings.get("target_modules", ()))
    return logits(wrapped)


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def saved(folder: Path, **settings: Any) -> Path:
    save_adapter(adapted(llama, **settings), folder, "the-base")
    return folder


# -- PEFT and we give the same numbers ------------------------------------------------------------


@both
@pytest.mark.parametrize("targets", [None, "own"])
def test_peft_computes_what_we_compute(
    make: Callable[[], PreTrainedModel], targets: str | None, tmp_path: Path
) -> None:
    peft = pytest.importorskip("peft")
    names = None if targets is None else ["q_proj", "down_proj"] if make is llama else ["c_attn"]
    ours = adapted(make, target_modules=names)
    save_adapter(ours, tmp_path, "the-base")
    theirs = peft.PeftModel.from_pretrained(make(), tmp_path).eval()
    assert (logits(ours) - logits(make())).abs().max() > 1e-2
    torch.testing.assert_close(logits(theirs), logits(ours), atol=1e-6, rtol=1e-5)


@both
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"target_modules": "all-linear"},
        {"target_modules": r".*\.(0|1)\..*(q_proj|v_proj|c_attn)"},
        {"use_rslora": True, "r": 8},
        {"rank_pattern": {"q_proj": 2, "h.1.attn.c_attn": 2}, "alpha_pattern": {r".*\.0\..*": 64}},
        {"target_modules": ["q_proj", "attn.c_proj"], "layers_to_transform": [1]},
        {"target_modules": ["q_proj", "c_proj"], "exclude_modules": ["mlp.c_proj"]},
    ],
    ids=["defaults", "all-linear", "regex", "rslora", "patterns", "layers", "excluded"],
)
def test_we_compute_what_peft_computes(
    make: Callable[[], PreTrainedModel], settings: dict[str, Any], tmp_path: Path
) -> None:
    theirs = peft_adapter(make(), tmp_path / "peft", **settings)
    ours = make()
    assert load_adapter(ours, tmp_path / "peft", "policy") is None
    torch.testing.assert_close(logits(ours), theirs, atol=1e-6, rtol=1e-5)
    save_adapter(ours, tmp_path / "again", "the-base", name="policy")
    back = make()
    load_adapter(back, tmp_path / "again")
    assert torch.equal(logits(back), logits(ours))


def test_peft_reads_back_ranks_and_alphas_that_differ_by_layer(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    patterns = {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 64}}
    theirs = peft_adapter(llama(), tmp_path / "peft", **patterns)
    ours = llama()
    load_adapter(ours, tmp_path / "peft")
    save_adapter(ours, tmp_path / "again", "the-base")
    again = peft.PeftModel.from_pretrained(llama(), tmp_path / "again").eval()
    torch.testing.assert_close(logits(again), theirs, atol=1e-6, rtol=1e-5)


def test_tensor_names_and_config_are_what_other_tools_expect(tmp_path: Path) -> None:
    save_adapter(adapted(llama, target_modules=["q_proj"], r=4, alpha=8.0), tmp_path, "the-base")
    tensors = safetensors.torch.load_file(tmp_path / "adapter_model.safetensors")
    stem = "base_model.model.model.layers.{}.self_attn.q_proj.lora_{}.weight"
    assert {key: tuple(value.shape) for key, value in tensors.items()} == {
        stem.format(layer, half): shape for layer in (0, 1) for half, shape in (("A", (4, 16)), ("B", (16, 4)))
    }
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    expected: dict[str, Any] = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "the-base"}
    expected |= {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "bias": "none"}
    assert {key: config[key] for key in expected} == expected
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]


def test_a_short_name_that_would_match_too_much_is_written_in_full(tmp_path: Path) -> None:
    model = adapted(gpt2, target_modules=["mlp.c_proj"])
    save_adapter(model, tmp_path, "the-base")
    targets = json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"]
    assert targets == ["transformer.h.0.mlp.c_proj", "transformer.h.1.mlp.c_proj"]


def test_an_adapter_of_the_backbone_alone_has_the_names_of_the_whole(tmp_path: Path) -> None:
    whole = llama()
    apply_lora_to_model(whole.model, r=4)
    wake(get_lora_parameters(whole))
    save_adapter(whole.model, tmp_path, "the-base")
    other, bare = llama(), llama()
    load_adapter(other, tmp_path)
    load_adapter(bare.model, tmp_path)
    assert torch.equal(logits(other), logits(whole)) and torch.equal(logits(bare), logits(whole))


def test_several_adapters_load_beside_one_another(tmp_path: Path) -> None:
    first, second = adapted(llama), adapted(llama, target_modules=["q_proj"], r=2, seed=3)
    wake(get_lora_parameters(second), 8)
    save_adapter(first, tmp_path / "a", "the-base")
    save_adapter(second, tmp_path / "b", "the-base")
    model = llama()
    load_adapter(model, tmp_path / "a", "policy")
    load_adapter(model, tmp_path / "b", "critic", trainable=False)
    assert torch.equal(logits(model), logits(second))
    with active_adapter(model, "policy"):
        assert torch.equal(logits(model), logits(first))
    set_active_adapter(model, None)
    assert torch.equal(logits(model), logits(llama()))
    trained = {id(p) for p in model.parameters() if p.requires_grad}
    assert trained == {id(p) for p in get_lora_parameters(model, "policy")}


# -- the reward head ------------------------------------------------------------------------------


def test_reward_head_survives_in_peft_and_in_ours(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    ours = scorer()
    ours.save_pretrained(tmp_path / "base")
    apply_lora_to_model(ours, r=4)
    wake([*get_lora_parameters(ours), ours.score.weight])
    head = {"score.weight": ours.score.weight}
    save_adapter(ours, tmp_path / "reward", str(tmp_path / "base"), task_type="SEQ_CLS", head=head)
    elsewhere = peft.AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "reward", num_labels=1).eval()
    torch.testing.assert_close(logits(elsewhere), logits(ours), atol=1e-6, rtol=1e-5)
    again = scorer()
    found = load_adapter(again, tmp_path / "reward")
    assert found is not None and found.keys() == {"score.weight"}
    with torch.no_grad():
        again.score.weight.copy_(found["score.weight"])
    assert torch.equal(logits(again), logits(ours))
    policy = llama()  # the same backbone in a causal model takes the adapter and hands the head over
    assert torch.equal((load_adapter(policy, tmp_path / "reward", "reward") or {})["score.weight"], ours.score.weight)


def test_a_reward_adapter_peft_trained_brings_its_head(tmp_path: Path) -> None:
    theirs = peft_adapter(scorer(), tmp_path, task_type="SEQ_CLS")
    ours = scorer()
    head = load_adapter(ours, tmp_path)
    ours.load_state_dict(head or {}, strict=False)
    torch.testing.assert_close(logits(ours), theirs, atol=1e-6, rtol=1e-5)


def test_an_encoder_brings_both_layers_of_its_head(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")

    def make() -> DistilBertForSequenceClassification:
        torch.manual_seed(4)
        config = DistilBertConfig(vocab_size=61, dim=16, n_layers=2, n_heads=4, hidden_dim=24)
        config.num_labels = 1
        return DistilBertForSequenceClassification(config).eval()

    ours = make()
    report = apply_lora_to_model(ours, r=4)
    assert len(report.modules) == 2 * 6 and all(path.startswith("distilbert.") for path in report.modules)
    head = {name: p for name, p in ours.named_parameters() if name.startswith(("classifier", "pre_classifier"))}
    wake([*get_lora_parameters(ours), *ours.classifier.parameters(), *ours.pre_classifier.parameters()])
    save_adapter(ours, tmp_path, "the-base", task_type="SEQ_CLS", head=dict(head))
    theirs = peft.PeftModel.from_pretrained(make(), tmp_path).eval()
    torch.testing.assert_close(logits(theirs), logits(ours), atol=1e-6, rtol=1e-5)


def test_a_head_that_would_be_lost_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is saved with its head"):
        save_adapter(adapted(scorer), tmp_path, "the-base", task_type="SEQ_CLS")
    edit(saved(tmp_path), task_type="SEQ_CLS")
    with pytest.raises(UserError, match="without its head"):
        load_adapter(scorer(), tmp_path)


# -- refusals and failures -------------------------------------------------------------------------


WHOLE = [
    {"target_modules": ["q_proj", "lm_head"]},
    {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens"]},
]


@pytest.mark.parametrize("copies", [False, True])
@pytest.mark.parametrize("settings", WHOLE)
def test_an_output_layer_comes_along_both_ways(settings: dict[str, Any], copies: bool, tmp_path: Path) -> None:
    """On an untied base: adapted, or trained whole; with and without the copies of the base that PEFT adds."""
    peft = pytest.importorskip("peft")
    theirs = peft.get_peft_model(llama(), peft.LoraConfig(r=4, lora_alpha=8, **settings)).eval()
    wake([p for name, p in theirs.named_parameters() if "lora_" in name or "modules_to_save" in name])
    theirs.save_pretrained(tmp_path / "theirs", save_embedding_layers=copies)
    ours = llama()
    assert load_adapter(ours, tmp_path / "theirs") is None
    assert not torch.allclose(logits(ours), logits(llama()), atol=1e-2)
    torch.testing.assert_close(logits(ours), logits(theirs), atol=1e-5, rtol=1e-5)
    save_adapter(ours, tmp_path / "ours", "the-base")
    for back in (peft.PeftModel.from_pretrained(llama(), tmp_path / "ours").eval(), llama()):
        if isinstance(back, LlamaForCausalLM):
            load_adapter(back, tmp_path / "ours")
        torch.testing.assert_close(logits(back), logits(theirs), atol=1e-5, rtol=1e-5)


def test_a_weight_of_the_model_itself_that_cannot_be_put_in_place_is_refused(tmp_path: Path) -> None:
    peft_adapter(llama(), tmp_path / "head", modules_to_save=["lm_head"])
    peft_adapter(llama(), tmp_path / "adapted", target_modules=["q_proj", "lm_head"])
    with pytest.raises(UserError, match=r"also replaces lm_head.weight, which is tied to model.embed_tokens.weight"):
        load_adapter(llama(tie_word_embeddings=True), tmp_path / "head")
    with pytest.raises(UserError, match="cannot adapt lm_head: its weight is tied to model.embed_tokens"):
        load_adapter(llama(tie_word_embeddings=True), tmp_path / "adapted")
    peft_adapter(llama(), tmp_path / "norm", modules_to_save=["post_attention_layernorm"])
    with pytest.raises(UserError, match=r"also replaces model.layers.0.post_attention_layernorm.weight"):
        load_adapter(llama(), tmp_path / "norm")
    peft_adapter(llama(), tmp_path / "embedding", target_modules=["q_proj", "embed_tokens"])
    with pytest.raises(UserError, match="embed_tokens"):
        load_adapter(llama(), tmp_path / "embedding")


def test_a_copy_of_another_bases_weight_is_refused(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    other = llama()
    wake([other.lm_head.weight])
    peft.get_peft_model(other, peft.LoraConfig(r=4, target_modules=["lm_head"])).save_pretrained(
        tmp_path, save_embedding_layers=True
    )
    model = llama()
    with pytest.raises(UserError, match="made for another base.*copy of lm_head.weight is not this model's"):
        load_adapter(model, tmp_path)
    assert torch.equal(logits(model), logits(llama()))


def test_a_taken_or_unknown_name_is_refused(tmp_path: Path) -> None:
    model = adapted(llama)
    with pytest.raises(UserError, match='unknown adapter "defult". Did you mean "default"'):
        save_adapter(model, tmp_path, "the-base", name="defult")
    with pytest.raises(UserError, match='already has an adapter "default"'):
        load_adapter(model, saved(tmp_path))
    with pytest.raises(UserError, match='unknown task type "CAUSAL"'):
        save_adapter(model, tmp_path, "the-base", task_type="CAUSAL")


@pytest.mark.parametrize(
    ("function", "call", "left"),
    [(os.fsync, 0, "old"), (os.fsync, 1, "old"), (os.replace, 0, "none"), (os.replace, 1, "none")],
)
def test_a_save_that_dies_leaves_no_mixture(
    function: Callable[..., Any], call: int, left: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rank and alpha of one adapter beside the weights of another would load and be wrong."""
    old = adapted(llama)
    save_adapter(old, tmp_path, "the-base")
    calls: list[object] = []

    def dying(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) > call:
            raise OSError("no space left on device")
        return function(*arguments)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="no space"):
        patch.setattr(os, function.__name__, dying)
        save_adapter(adapted(llama, alpha=16.0, seed=3), tmp_path, "the-base")
    assert not list(tmp_path.glob(".*"))
    model = llama()
    if left == "none":
        with pytest.raises(UserError, match="has no adapter_config.json"):
            load_adapter(model, tmp_path)
    else:
        load_adapter(model, tmp_path)
        assert torch.equal(logits(model), logits(old))
