"""From a config to engines: the precision that was asked for, nothing trained that is only read, who starts whom."""

from __future__ import annotations

import pytest
import torch

from concordant.algorithms.rewards import Answer
from concordant.config.model import ModelConfig
from concordant.config.stages import PPOConfig
from concordant.config.train import TrainConfig
from concordant.data.records import Message
from concordant.engines import roles
from concordant.engines.reward_model import RewardModel
from concordant.stages.rewarding import Rewards
from tests.engines.tiny import tiny_policy

BF16, FP32 = (ModelConfig(precision=precision, device="cpu") for precision in ("bf16", "fp32"))


@pytest.mark.parametrize(("model", "dtype"), [(BF16, torch.bfloat16), (FP32, torch.float32)])
def test_every_role_runs_in_the_precision_that_was_asked_for(model, dtype):
    policy, reward_model = tiny_policy(), RewardModel.from_backbone(tiny_policy())
    learner = roles.policy_learner(policy, model, TrainConfig())
    made = [
        learner,
        learner.reference(),
        roles.policy_scorer(policy, model),
        roles.reward_learner(reward_model, model, TrainConfig()),
        roles.reward_scorer(reward_model, model),
        roles.critic_learner(policy, PPOConfig(model=model)),
    ]
    assert [role.describe().precision for role in made] == [dtype] * len(made)


def test_rewards_of_a_run_are_scored_in_its_precision(tmp_path):
    RewardModel.from_backbone(tiny_policy()).save(tmp_path / "model")
    answers = [Answer((Message("user", "where does the owl live"),), text, True, {}) for text in ("a tree", "owl")]
    exact, rounded = (Rewards([str(tmp_path / "model")], m).reward(answers).result().total for m in (FP32, BF16))
    assert exact != rounded and exact == pytest.approx(rounded, abs=0.05)
    (alone,) = RewardModel.from_pretrained(tmp_path / "model").score_responses([answers[0].prompt], [["a tree", "owl"]])
    assert exact == alone


def test_what_is_only_read_has_nothing_to_train(tmp_path):
    policy, model = tiny_policy(), RewardModel.from_backbone(tiny_policy())
    model.save(tmp_path / "model")
    opened = roles.open_reward_model(str(tmp_path / "model"), FP32)
    assert not any(p.requires_grad for p in opened.model.parameters())
    scorers = [roles.reward_scorer(opened, FP32), roles.policy_scorer(policy, FP32)]
    assert not any(hasattr(scorer, "step") or hasattr(scorer, "optimizer") for scorer in scorers)
    assert [scorer.describe().trained for scorer in scorers] == [0, 0]


def test_a_critic_starts_from_a_reward_model_that_reads_as_the_policy_does():
    policy, model = tiny_policy(), RewardModel.from_backbone(tiny_policy())
    start, why = roles.critic_start(PPOConfig(), policy, [model])
    assert start is model and "the reward model" in why
    start, why = roles.critic_start(PPOConfig(), policy, [])
    assert start is policy and "the policy" in why
