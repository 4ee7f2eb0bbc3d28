"""Reward models over decoders and over an encoder."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertModel

from concordant.config.model import ModelConfig
from concordant.engines.reward_model import RewardModel
from concordant.models.locate import locate
from tests.engines.scored import MINILM
from tests.models import zoo


@pytest.fixture(params=["Llama", "GPT-2", "BLOOM"])
def decoder(request: pytest.FixtureRequest) -> RewardModel:
    """One that shares trunks, one with absolute positions, one that is laid flat."""
    return RewardModel.from_backbone(zoo.policy(request.param))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> RewardModel:
    """A small random BERT with MiniLM's tokenizer."""
    folder = tmp_path_factory.mktemp("bert")
    config = BertConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16)
    config.initializer_range = 0.2
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(locate(MINILM)).save_pretrained(folder)
    return RewardModel.from_backbone(ModelConfig(name=str(folder)))


@pytest.fixture(params=["decoder", "encoder"])
def either(request: pytest.FixtureRequest, encoder: RewardModel) -> RewardModel:
    return encoder if request.param == "encoder" else RewardModel.from_backbone(zoo.policy("Llama"))
