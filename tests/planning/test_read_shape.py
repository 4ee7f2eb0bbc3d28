"""Shapes from a folder's config.json, from names and from dimensions; errors name what was given and the nearest."""

from __future__ import annotations

import json

import pytest
from transformers import Gemma3TextConfig, GPT2Config, LlamaConfig, Qwen3Config

from concordant.config.plan import ShapeConfig
from concordant.core.errors import UserError
from concordant.planning.read_shape import from_dimensions, from_settings, shape_of

LLAMA = {
    "model_type": "llama",
    "vocab_size": 100,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 16,
}


def test_a_saved_config_is_read(tmp_path):
    LlamaConfig(vocab_size=100, hidden_size=8, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                intermediate_size=16, tie_word_embeddings=True).save_pretrained(tmp_path)  # fmt: skip
    shape = shape_of(str(tmp_path))
    assert (shape.vocabulary, shape.hidden, shape.layers, shape.heads) == (100, 8, 2, 4)
    assert (shape.kv_heads, shape.head_size, shape.mlp, shape.tied) == (2, 2, 16, True)


@pytest.mark.parametrize("config", [GPT2Config(), Qwen3Config(), Gemma3TextConfig(), LlamaConfig()])
def test_what_a_config_leaves_out_is_what_transformers_takes(config, tmp_path):
    """The file of a config at its defaults lacks many keys; a reader must fill in the same numbers as transformers."""
    config.save_pretrained(tmp_path)
    whole = from_settings(config.to_dict(), "whole")
    assert shape_of(str(tmp_path)) == whole


def test_missing_key_heads_and_head_size_follow_from_the_others():
    shape = from_settings(LLAMA, "c")
    assert (shape.kv_heads, shape.head_size, shape.tied) == (4, 2, False)


def test_a_model_of_text_and_pictures_is_its_language_model():
    inner = {**LLAMA, "model_type": "gemma3_text", "head_dim": 4}
    assert from_settings({"model_type": "gemma3", "text_config": inner}, "c").kind == "gemma3_text"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mamba"}, "architecture mamba, which is not planned. Planned: llama"),
        ({"model_type": None}, "architecture None"),
        ({"hidden_size": None}, "lacks hidden_size"),
        ({"hidden_size": "8"}, "hidden_size is 8; expected a whole number above 0"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"num_hidden_layers": True}, "num_hidden_layers is True"),
        ({"num_hidden_layers": 10**30}, "expected a whole number"),
        ({"num_key_value_heads": 3}, "4 heads, 3 key heads"),
    ],
)
def test_a_bad_config_is_an_error_that_names_the_key(changes, message):
    with pytest.raises(UserError, match=message):
        from_settings({**LLAMA, **changes}, "c")


def test_an_unknown_name_gives_the_nearest():
    with pytest.raises(UserError, match='no known model "Qwen3-0.6".*Did you mean "Qwen/Qwen3-0.6B"'):
        shape_of("Qwen3-0.6")
    with pytest.raises(UserError, match="Known: .*meta-llama/Llama-3.1-70B"):
        shape_of("something else entirely")


def test_a_folder_without_config_and_a_file_are_errors(tmp_path):
    with pytest.raises(UserError, match="has no config.json"):
        shape_of(str(tmp_path))
    file = tmp_path / "model.safetensors"
    file.write_text("")
    with pytest.raises(UserError, match="is a file"):
        shape_of(str(file))
    (tmp_path / "config.json").write_text(json.dumps([1]))
    with pytest.raises(UserError, match="expected a JSON object"):
        shape_of(str(tmp_path))


def test_dimensions():
    shape = from_dimensions(ShapeConfig(vocabulary=100, hidden=8, layers=2, heads=4, mlp=16))
    assert shape == from_settings(LLAMA, "c")
    with pytest.raises(UserError, match="shape: 16 heads"):
        from_dimensions(ShapeConfig(vocabulary=100, hidden=8, layers=2, heads=16, mlp=16))
