"""A preset's settings fit the memory in its name, by arithmetic with the model's real dimensions.

Nothing here loads a real model: that needs its files and a GPU. What is tested is that the arithmetic counts what
PyTorch counts, and that its sums are below the limit that the doctor uses for a run.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import concordant
from concordant.config.names import METHODS
from concordant.config.presets import models, preset_names
from concordant.models.lora import apply_lora_to_model, get_lora_parameters
from tests.stages.preset_memory import FACTS, GiB, adapters, config_of, counting, kept_bytes, need, room, table

EACH = [(name, method) for name in preset_names() for method in METHODS]


def test_every_model_has_its_facts():
    assert sorted(FACTS) == models()


@pytest.mark.parametrize("model", FACTS)
def test_the_dimensions_give_the_published_number_of_weights(model):
    """The number of weights of the hub's files, counted once by transformers and once by hand."""
    f = FACTS[model]
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(f.config())
    assert sum(p.numel() for p in skeleton.parameters()) == f.weights
    norms = {
        "llama": 2 * f.hidden,
        "qwen3": 2 * f.hidden + 2 * f.head_size,
        "gemma3_text": 4 * f.hidden + 2 * f.head_size,
    }
    attention = 2 * f.hidden * f.head_size * (f.heads + f.kv_heads)
    layer = attention + 3 * f.hidden * f.mlp + norms[f.kind]
    assert f.vocabulary * f.hidden + f.layers * layer + f.hidden == f.weights


def test_the_number_of_an_adapters_weights_is_the_number_that_is_trained():
    f = FACTS["smollm2-135m"]
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(f.config())
        apply_lora_to_model(skeleton, r=16)
    assert sum(p.numel() for p in get_lora_parameters(skeleton)) == adapters(f, 16)


def test_the_count_is_of_what_autograd_keeps():
    """A sigmoid and a relu keep their results, 16 × 8 numbers of 4 bytes each; a sum keeps nothing."""
    x = torch.zeros(16, 8, requires_grad=True)
    with counting() as kept:
        x.sigmoid().relu().sum()
    assert sum(size for size, _ in kept.values()) == 2 * 16 * 8 * 4


def test_a_layer_keeps_at_least_what_its_products_need():
    """The inputs of seven products in bf16: five of the hidden size, one of the queries', one of the MLP's."""
    f = FACTS["llama-3.2-1b"]
    inputs = 5 * f.hidden + f.heads * f.head_size + f.mlp
    assert 2 * inputs < kept_bytes(f, 0, True) < 4 * 2 * inputs


@pytest.mark.parametrize(("name", "method"), EACH)
def test_a_preset_fits_the_memory_in_its_name(name, method):
    parts = need(name, method)
    assert parts["total"] <= room(name.partition("/")[2]), {part: f"{n / GiB:.2f} GiB" for part, n in parts.items()}


@pytest.mark.parametrize(
    ("name", "method", "change"),
    [
        ("qwen3-4b/80gb", "sft", {"model.lora.rank": 0}),
        ("qwen3-4b/80gb", "sft", {"model.activation_checkpointing": False}),
        ("qwen3-4b/24gb", "sft", {"model.activation_checkpointing": False}),
        ("qwen3-4b/24gb", "sft", {"train.micro_batch_tokens": 8192}),
        ("qwen3-4b/24gb", "dpo", {"evaluation_slots": 64}),
        ("qwen3-4b/24gb", "ppo", {"sampling.slots": 64}),
        ("qwen3-4b/cpu", "sft", {"model.activation_checkpointing": False}),
        ("llama-3.2-1b/24gb", "sft", {"model.lora.rank": 0}),
        ("llama-3.2-1b/24gb", "sft", {"model.activation_checkpointing": False}),
        ("gemma-3-1b/24gb", "sft", {"model.lora.rank": 0}),
        ("gemma-3-1b/24gb", "sft", {"model.activation_checkpointing": False}),
        ("qwen3-0.6b/24gb", "sft", {"model.activation_checkpointing": False}),
        ("qwen3-0.6b/24gb", "dpo", {"evaluation_slots": 64}),
        ("qwen3-0.6b/24gb", "ppo", {"train.micro_batch_tokens": 8192}),
        ("qwen3-0.6b/24gb", "ppo", {"sampling.slots": 64}),
    ],
)
def test_without_the_setting_it_would_not_fit(name, method, change, monkeypatch):
    """So each of these lines is needed."""
    from tests.stages import preset_memory

    config = config_of(name, method)
    for key, value in change.items():
        *sections, last = key.split(".")
        place = config
        for section in sections:
            place = getattr(place, section)
        assert getattr(place, last) != value
        setattr(place, last, value)
    monkeypatch.setattr(preset_memory, "config_of", lambda *_: config)
    assert need(name, method)["total"] > room(name.partition("/")[2])


def test_the_docs_have_these_numbers():
    """docs/presets.md shows the table; another version of transformers may keep a little more or less."""
    page = (Path(concordant.__file__).parents[1] / "docs" / "presets.md").read_text(encoding="utf-8")
    for line in table().splitlines()[2:]:
        name, *numbers = [cell.strip() for cell in line.strip("| ").split("|")]
        shown = next(row for row in page.splitlines() if row.startswith(f"| {name} |"))
        found = [float(cell) for cell in shown.strip("| ").split("|")[1:]]
        assert found == pytest.approx([float(n) for n in numbers], abs=0.5), f"{name}: should be {numbers}"
