"""Small models that each stage has trained, once for every file of tests that asks for them."""

import pytest

import concordant
from concordant.config.model import ModelConfig
from concordant.config.stages import (
    DPOConfig,
    RewardConfig,
    SFTConfig,
)
from tests.stages.small import (
    DATA,
    SHORT_ANSWERS,
    plain,
    ppo_config,
    train,
)  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def sft(runs):
    model = ModelConfig(**plain("builtin:tiny"))
    return concordant.sft(SFTConfig(output=str(runs / "sft"), data=DATA, model=model, train=train(learning_rate=1e-3)))


@pytest.fixture(scope="module")
def reward(runs, sft):
    return concordant.reward(
        RewardConfig(
            output=str(runs / "reward"), data=DATA, model=ModelConfig(**plain(sft / "model")), train=train(),
            lm_coefficient=0.3, validation_fraction=0.2,
        )
    )  # fmt: skip


@pytest.fixture(scope="module")
def dpo(runs, sft):
    return concordant.dpo(
        DPOConfig(
            output=str(runs / "dpo"), data=SHORT_ANSWERS, model=ModelConfig(**plain(sft / "model")), train=train()
        )
    )


@pytest.fixture(scope="module")
def ppo(runs, sft, reward):
    return concordant.ppo(ppo_config(runs / "ppo", sft / "model", reward / "model"))
