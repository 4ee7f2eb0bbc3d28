"""Verbs that sample with vLLM: run where vLLM is installed, by `make vllm`."""

from __future__ import annotations

import json
from importlib.util import find_spec

import pytest

from concordant.config.data import DataConfig
from concordant.config.model import ModelConfig
from concordant.config.sampling import SamplingConfig
from concordant.config.stages import EvaluateConfig, GenerateConfig, PPOConfig
from concordant.config.train import TrainConfig
from concordant.models.load import save_policy
from concordant.stages.evaluate import evaluate
from concordant.stages.ppo import ppo
from concordant.stages.talk import generate
from tests.engines.tiny import tiny_policy

pytestmark = pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed here")


@pytest.fixture
def model(tmp_path) -> str:
    save_policy(tiny_policy(hidden_size=64), tmp_path / "start")
    return str(tmp_path / "start")


def sampling(**settings) -> SamplingConfig:
    return SamplingConfig(engine="vllm", max_new_tokens=8, **settings)


def test_ten_steps_of_ppo_sample_with_the_present_weights(tmp_path, model):
    """Sampler and learner agree at every step, also after 40 optimizer steps that move each weight."""
    config = PPOConfig(
        output=str(tmp_path / "run"),
        data=DataConfig("builtin:toytalk", max_samples=60),
        model=ModelConfig(model, device="cpu", precision="fp32"),
        train=TrainConfig(max_steps=10, batch_size=4, learning_rate=3e-3, evaluate_every=5, tensorboard=False),
        reward=["rule:ends"],
        advantage="rloo",
        importance_cap=2.0,
        sampling=sampling(n=4),
    )
    rows = [json.loads(line) for line in (ppo(config) / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if "policy_version" in row]
    assert [row["policy_version"] for row in steps] == [4.0 * step for step in range(10)]
    assert max(row["doctor/rollout/logprob_gap"] for row in steps) < 1e-4
    assert all(abs(row["sampling/importance_ratio/mean"] - 1) < 1e-4 for row in steps)
    assert steps[-1]["objective/kl"] > 0.1, "the weights moved, so equal log-probs mean that vLLM got them"


def test_two_policies_are_compared_in_one_process(tmp_path, model):
    save_policy(tiny_policy(seed=1, hidden_size=64), tmp_path / "other")
    config = EvaluateConfig(
        policies=[f"one={model}", f"two={tmp_path / 'other'}"],
        output=str(tmp_path / "report"),
        data=DataConfig("builtin:toytalk", max_samples=60),
        model=ModelConfig(device="cpu", precision="fp32"),
        sampling=sampling(),
        max_prompts=6,
        bootstrap=10,
    )
    evaluate(config)
    assert (tmp_path / "report" / "report.md").is_file()


def test_an_answer_ends_before_its_stop_string(tmp_path, model):
    """The letter is in some answer, and after it is a stop string it is in none."""
    settings = {"data": DataConfig("builtin:toytalk", max_samples=12), "model": ModelConfig(model, device="cpu")}

    def answers(**given) -> list[str]:
        config = GenerateConfig(output=str(tmp_path / "answers.jsonl"), sampling=sampling(**given), **settings)
        return [json.loads(line)["response"] for line in generate(config).read_text().splitlines()]

    whole, cut = answers(), answers(stop_strings=["e"])
    assert any("e" in text for text in whole)
    assert cut == [text.partition("e")[0] for text in whole]
