"""The numbers of weights: counted by hand for a model of two layers, by transformers, and as the hub publishes them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from concordant.models.lora import apply_lora_to_model, get_lora_parameters
from concordant.planning.known import KNOWN, hub_id, known_shape
from concordant.planning.read_shape import from_settings
from concordant.planning.shapes import KINDS, Shape

TWO_LAYERS = Shape(kind="llama", vocabulary=10, hidden=4, layers=2, heads=2, kv_heads=1, head_size=2, mlp=6, tied=False)
KINDS_SETTINGS = {
    "vocab_size": 96,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
GPT2 = {"vocab_size": 96, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 48, "n_positions": 64}


def skeleton(kind: str, tied: bool):
    settings = GPT2 if kind == "gpt2" else KINDS_SETTINGS
    config = AutoConfig.for_model(kind, **settings, tie_word_embeddings=tied)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def test_every_tensor_of_a_model_of_two_layers():
    """Embedding 10·4, head 10·4, final norm 4. A layer: queries 4·4, keys and values 4·2 each, output 4·4, gate, up and
    down 4·6 each, two norms of 4."""
    layer = 16 + 8 + 8 + 16 + 24 + 24 + 24 + 4 + 4
    assert TWO_LAYERS.layer() == layer == 128
    assert TWO_LAYERS.weights() == 40 + 40 + 4 + 2 * layer


def test_the_parts_of_a_rank_by_hand():
    """Two ranks divide each matrix; norms are whole. Of two stages the first has the embedding, the last the head."""
    assert TWO_LAYERS.layer(tensor=2) == 120 / 2 + 8
    assert TWO_LAYERS.weights(tensor=2) == 20 + 20 + 4 + 2 * 68
    assert TWO_LAYERS.weights(pipeline=2) == 128 + max(40, 40 + 4)


def test_an_adapter_by_hand():
    """Rank 3: (inputs + outputs) · 3 of each matrix. Two ranks divide the outputs, or of two matrices the inputs."""
    ends = (4 + 4) + (4 + 2) + (4 + 2) + (4 + 4) + (4 + 6) + (4 + 6) + (6 + 4)
    assert TWO_LAYERS.adapters(3) == 2 * 3 * ends
    halves = (4 + 2) + (4 + 1) + (4 + 1) + (4 + 2) + (4 + 3) + (4 + 3) + (4 + 3)
    assert TWO_LAYERS.adapters(3, tensor=2) == 2 * 3 * halves


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_transformers_counts_the_same(kind, tied):
    model = skeleton(kind, tied)
    shape = from_settings(model.config.to_dict(), "config.json")
    assert shape.weights() == sum(p.numel() for p in model.parameters())
    without_head = sum(p.numel() for p in model.base_model.parameters())
    assert shape.weights(head=False) == without_head


@pytest.mark.parametrize("kind", KINDS)
def test_lora_trains_the_same_number(kind):
    model = skeleton(kind, True)
    shape = from_settings(model.config.to_dict(), "config.json")
    with torch.device("meta"):
        apply_lora_to_model(model, r=4)
    assert shape.adapters(4) == sum(p.numel() for p in get_lora_parameters(model))


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("HuggingFaceTB/SmolLM2-135M", 134_515_008),
        ("openai-community/gpt2", 124_439_808),
        ("Qwen/Qwen2.5-0.5B", 494_032_768),
        ("Qwen/Qwen3-0.6B", 596_049_920),
        ("Qwen/Qwen3-1.7B", 1_720_574_976),
        ("Qwen/Qwen3-4B", 4_022_468_096),
        ("Qwen/Qwen3-8B", 8_190_735_360),
        ("Qwen/Qwen3-14B", 14_768_307_200),
        ("Qwen/Qwen3-32B", 32_762_123_264),
        ("google/gemma-3-1b", 999_885_952),
        ("meta-llama/Llama-3.2-1B", 1_235_814_400),
        ("meta-llama/Llama-3.2-3B", 3_212_749_824),
        ("meta-llama/Llama-3.1-8B", 8_030_261_248),
        ("meta-llama/Llama-3.1-70B", 70_553_706_496),
    ],
)
def test_known_models_have_their_published_numbers(name, published):
    assert KNOWN[name].weights() == published
    assert set(KNOWN) >= {name}


def test_a_known_model_is_found_by_any_of_its_names():
    assert known_shape("qwen3-4b") is KNOWN["Qwen/Qwen3-4B"]
    assert hub_id("llama-3.1-8b-instruct") == "meta-llama/Llama-3.1-8B-Instruct"
    assert hub_id("gemma-3-1b-it") == "google/gemma-3-1b-it"
    assert known_shape("Qwen3-4") is None and hub_id("Qwen3-4") == ""


@settings(deadline=None)
@given(tensor=st.sampled_from([1, 2, 4, 8]), pipeline=st.integers(1, 32), name=st.sampled_from(sorted(KNOWN)))
def test_no_weight_is_lost_between_ranks(tensor, pipeline, name):
    """The fullest rank times the ranks is at least the model, and a finer division never needs more on a rank."""
    shape = KNOWN[name]
    held = shape.weights(tensor, pipeline)
    assert held * tensor * pipeline >= shape.weights() * (1 - 1e-12)
    assert shape.weights(2 * tensor, pipeline) < held
    if not shape.tied or pipeline > 1:  # a tied head becomes a second copy with the second stage
        assert shape.weights(tensor, pipeline + 1) <= held
    assert math.isfinite(held)


@pytest.mark.parametrize(
    ("tensor", "pipeline", "divides"), [(1, 1, True), (2, 1, False), (1, 2, True), (1, 3, False), (4, 1, False)]
)
def test_a_mesh_needs_whole_heads_and_a_layer_for_each_stage(tensor, pipeline, divides):
    assert TWO_LAYERS.divides(tensor, pipeline) is divides
