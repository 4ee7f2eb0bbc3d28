"""From a config to engines: the precision that was asked for, nothing trained that is only read, who starts whom."""

from __future__ import annotations

import pytest
import torch

from concordant.algorithms.rewards import Answer
from concordant.config.model import ModelConfig
from concordant.config.stages import PPOConfig
from concordant.config.train import TrainConfig
from concordant.core.objective import Outputs
from concordant.data.records import Message
from concordant.engines import roles
from concordant.engines.reward_model import RewardModel
from concordant.models.load import save_policy
from concordant.stages.rewarding import Rewards
from tests.engines.conformance.test_learner import pairs
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


def test_a_named_reference_is_measured_from_at_the_runs_temperature(tmp_path):
    """Its log-probs are the penalty's, and the exact KL of the loss starts from it as well."""
    save_policy(tiny_policy(seed=1), tmp_path / "other")
    policy, trees, temperature = tiny_policy(), pairs(2), 0.5
    learner = roles.policy_learner(policy, FP32, TrainConfig(), temperature)
    reference = roles.reference(learner, policy, str(tmp_path / "other"), FP32, TrainConfig(), temperature)
    given = reference.forward(trees, Outputs(logprob=True)).result().logprob_N
    exact = learner.forward(trees, Outputs(kl=True)).result().kl_N
    logprobs, divergences = [], []
    for tree in trees:
        for branch in tree.branches:
            row, start = torch.cat([tree.prompt_T, branch.ids_T])[None], len(tree.prompt_T) - 1
            with torch.no_grad():
                mine, theirs = (
                    (model(row).logits[0, start:-1] / temperature).log_softmax(-1)
                    for model in (policy.model, tiny_policy(seed=1).model)
                )
            logprobs.append(theirs.gather(1, branch.ids_T[:, None])[:, 0])
            divergences.append((mine.exp() * (mine - theirs)).sum(-1))
    torch.testing.assert_close(given, torch.cat(logprobs), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(exact, torch.cat(divergences), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(("named", "expected"), [(7, {3, 7}), ([7, 8], {3, 7, 8}), (None, {3})])
def test_a_response_ends_at_every_end_token_that_the_model_names(named, expected):
    policy = tiny_policy()
    policy.model.generation_config.eos_token_id = named
    assert roles.generator(policy, [3], FP32).end_ids == expected


def test_dialogues_that_end_with_the_same_question_are_scored_apart(tmp_path):
    RewardModel.from_backbone(tiny_policy()).save(tmp_path / "model")
    asked = Message("user", "where does the owl live")
    before = [(), (Message("user", "what colour is the fox"), Message("assistant", "brown"))]
    answers = [Answer((*turns, asked), "a tree", True, {}) for turns in before]
    reward = Rewards([str(tmp_path / "model")], FP32).reward
    together, alone = reward(answers).result().total, [reward([a]).result().total[0] for a in answers]
    assert together == pytest.approx(alone, abs=1e-6) and abs(alone[0] - alone[1]) > 1e-3


def test_the_range_of_scores_is_known_of_one_reward_model_with_the_weight_1(tmp_path):
    """Half of a score is no more within the range of the whole ones than their sum with another reward."""
    RewardModel.from_backbone(tiny_policy()).save(tmp_path / "model")
    (tmp_path / "reward_model.json").write_text('{"score_mean": 0.5, "score_std": 2.0}')
    model = str(tmp_path / "model")
    given = {"alone": [model], "half": [f"{model}=0.5"], "beside": [model, "rule:ends"]}
    assert {name: Rewards(sources, FP32).range for name, sources in given.items()} == {
        "alone": (0.5, 2.0),
        "half": None,
        "beside": None,
    }
    (tmp_path / "reward_model.json").write_text('{"score_mean": 0.5, "score_std": 1e-9}')
    assert Rewards([model], FP32).range is None, "nothing is so many roundings away"
    for odd in ("", "[]", "null", '{"score_std": 2.0}', '{"score_mean": "x", "score_std": 2.0}', '{"score_std": [1]}'):
        (tmp_path / "reward_model.json").write_text(odd)
        assert Rewards([model], FP32).range is None
