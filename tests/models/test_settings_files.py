"""The settings of a model folder: those that would run code, and files that are no settings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from concordant.models.card import front_matter
from concordant.models.peft_files import save_adapter
from tests.models.policies import load, message, with_trained_adapter

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


def test_a_card_of_a_model_cannot_hang_or_crash(folder: Path) -> None:
    bomb = "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    for front in ("[" * 50_000, f"a: &a [x]\n{bomb}", "a: &a [*a]", "a: !!set [1]", "{"):
        (folder / "README.md").write_text(f"---\n{front}\n---\n")
        assert front_matter(folder) == {}


def test_a_link_to_itself_is_named(folder: Path) -> None:
    (folder / "generation_config.json").unlink()
    (folder / "generation_config.json").symlink_to("generation_config.json")
    assert "generation_config.json" in message(folder)


def test_code_that_comes_with_a_model_is_not_run(folder: Path) -> None:
    settings = json.loads((folder / "config.json").read_text())
    settings["auto_map"] = {"AutoModelForCausalLM": "evil.Model"}
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "evil.py").write_text(f"open({str(folder / 'executed')!r}, 'w')")
    assert "--model.trust_remote_code true" in message(folder) and "evil.Model" in message(folder)
    assert not (folder / "executed").exists()
