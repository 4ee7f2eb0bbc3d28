"""Adapter folders that must be refused, each by name and before the model changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from concordant.core.errors import UserError
from concordant.models.lora import apply_lora_to_model, lora_layers
from concordant.models.peft_files import load_adapter, save_adapter


def llama(**changes: int) -> LlamaForCausalLM:
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, **changes}
    return LlamaForCausalLM(LlamaConfig(vocab_size=61, **sizes))  # type: ignore[arg-type]


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def saved(folder: Path) -> Path:
    model = llama()
    apply_lora_to_model(model, r=4, alpha=8.0)
    save_adapter(model, folder, "the-base")
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 32}, r"another base \(the-base\): model.layers.0.mlp.down_proj holds A \(4, 24\)"),
        ({"num_hidden_layers": 1}, "another base .*no linear layer model.layers.1"),
        ({"num_hidden_layers": 3}, "its config names model.layers.2.* no weights for"),
    ],
    ids=["wider", "shallower", "deeper"],
)
def test_an_adapter_for_another_base_is_refused(changes: dict[str, int], message: str, tmp_path: Path) -> None:
    folder, model = saved(tmp_path), llama(**changes)
    with pytest.raises(UserError, match=message):
        load_adapter(model, folder)
    assert not lora_layers(model) and all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "LOHA"}, "PEFT type LOHA is not supported"),
        ({"use_qalora": True}, "use_qalora = true is not supported"),
        ({"bias": "lora_only"}, 'bias "lora_only" is not supported'),
        ({"lora_bias": True}, "lora_bias"),
        ({"init_lora_weights": "pissa_niter_4"}, "it changes the base"),
        ({"target_parameters": ["experts.gate_up_proj"]}, "target_parameters"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices"),
        ({"an_option_from_the_future": 1}, "an_option_from_the_future"),
        ({"task_type": "SEQ_2_SEQ_LM"}, "task type SEQ_2_SEQ_LM"),
        ({"r": "16"}, 'r is "16": expected a whole number'),
        ({"r": 0}, "expected a rank of 1 or more"),
        ({"lora_alpha": 0}, "expected more than 0"),
        ({"r": 8}, r"holds A \(4, 24\) and B \(16, 4\), expected \(8, 24\) and \(16, 8\)"),
        ({"target_modules": "q_proj("}, "not a regular expression"),
        ({"target_modules": {"q": 1}}, "expected a list of names"),
        ({"rank_pattern": [2]}, "expected an object"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    edit(saved(tmp_path), **changes)
    model = llama()
    with pytest.raises(UserError, match=message):
        load_adapter(model, tmp_path)
    assert not lora_layers(model)


def test_files_that_are_no_adapter_are_refused(tmp_path: Path) -> None:
    weights, config = tmp_path / "adapter_model.safetensors", tmp_path / "adapter_config.json"
    with pytest.raises(UserError, match="has no adapter_config.json"):
        load_adapter(llama(), tmp_path)
    saved(tmp_path)
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="damaged or not a safetensors file"):
        load_adapter(llama(), tmp_path)
    tensors = safetensors.torch.load(whole)
    tensors.pop(next(name for name in sorted(tensors) if "lora_B" in name))
    safetensors.torch.save_file(tensors, weights)
    with pytest.raises(UserError, match="has only lora_A, expected lora_A and lora_B"):
        load_adapter(llama(), tmp_path)
    weights.unlink()
    with pytest.raises(UserError, match="has no adapter_model.safetensors"):
        load_adapter(llama(), tmp_path)
    for text, message in (("{", "is not readable JSON"), ("[]", "holds a list")):
        config.write_text(text)
        with pytest.raises(UserError, match=message):
            load_adapter(llama(), tmp_path)


class Canary:
    """Touches a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., None], tuple[Path]]:
        return Path.touch, (self.path,)


def test_a_pickle_is_refused_unopened(tmp_path: Path) -> None:
    folder = saved(tmp_path / "adapter")
    (folder / "adapter_model.safetensors").unlink()
    torch.save(Canary(tmp_path / "ran"), folder / "adapter_model.bin")
    with pytest.raises(UserError, match="adapter_model.bin is a pickle"):
        load_adapter(llama(), folder)
    assert not (tmp_path / "ran").exists()
