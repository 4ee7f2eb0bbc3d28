"""A policy from a folder: loaded, refused, or with an adapter that is no longer at its start."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from concordant.config.model import LoraConfig, ModelConfig
from concordant.core.errors import UserError
from concordant.models.load import Policy, load_policy
from concordant.models.lora import lora_layers

IDS = torch.arange(5, 17)[None]


def load(name: str | Path, **more: object) -> Policy:
    return load_policy(ModelConfig(name=str(name), **more))


def message(name: str | Path, **more: object) -> str:
    with pytest.raises(UserError) as caught:
        load(name, **more)
    return str(caught.value)


def with_trained_adapter(folder: Path) -> Policy:
    policy = load(folder, lora=LoraConfig(rank=2))
    for layer in lora_layers(policy.model).values():
        torch.nn.init.normal_(layer.adapter("default").lora_B, std=0.1)
    return policy
