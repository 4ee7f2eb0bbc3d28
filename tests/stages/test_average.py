"""Reward models of one start are averaged, and others are refused with the reason."""

import copy
from dataclasses import replace

import pytest
import torch

from concordant import AverageConfig, average
from concordant.core.errors import UserError
from concordant.engines.reward_model import RewardModel
from tests.engines.tiny import tiny_policy


def saved(folder, model, shift=0.0):
    with torch.no_grad():
        for weight in model.model.parameters():
            weight.add_(shift)
    model.save(folder)
    return str(folder)


def reward_model(seed=0):
    return RewardModel.from_backbone(tiny_policy(seed), seed=seed)


def test_the_average_scores_between_its_members_and_loads_alone(tmp_path):
    model = reward_model()
    names = [saved(tmp_path / "a", model), saved(tmp_path / "b", model, 2e-3)]
    made = average(AverageConfig(models=names, output=str(tmp_path / "mean")))
    weights = [RewardModel.from_pretrained(name).model.state_dict() for name in (*names, str(made))]
    for name, w in weights[2].items():
        assert torch.allclose(w, (weights[0][name] + weights[1][name]) / 2, atol=1e-6)


def test_models_of_two_starts_are_refused(tmp_path):
    names = [saved(tmp_path / str(seed), reward_model(seed)) for seed in (0, 1)]
    with pytest.raises(UserError, match="cosine of .* and those of one start have nearly 1"):
        average(AverageConfig(models=names, output=str(tmp_path / "mean")))


def test_models_of_two_tokenizers_are_refused(tmp_path):
    model = reward_model()
    other = copy.deepcopy(model.tokenizer)
    other.add_tokens(["owl"])
    names = [saved(tmp_path / "a", model), saved(tmp_path / "b", replace(model, tokenizer=other))]
    with pytest.raises(UserError, match="their tokenizers differ, so one row of the embeddings stands for two tokens"):
        average(AverageConfig(models=names, output=str(tmp_path / "mean")))


def test_heads_of_two_starts_are_refused(tmp_path):
    policy = tiny_policy(0)
    names = [saved(tmp_path / str(seed), RewardModel.from_backbone(policy, seed=seed)) for seed in (0, 1)]
    with pytest.raises(UserError, match="their heads have a cosine of"):
        average(AverageConfig(models=names, output=str(tmp_path / "mean")))


def test_the_run_folders_say_the_starts(tmp_path):
    model = reward_model()
    names = []
    for start in ("runs/sft/model", "runs/other/model"):
        run = tmp_path / start.split("/")[1]
        names.append(saved(run / "model", model))
        (run / "config.yaml").write_text(f"verb: reward\nmodel: {{name: {start}}}\n")
    with pytest.raises(UserError, match="it started from runs/other/model, and the other from runs/sft/model"):
        average(AverageConfig(models=names, output=str(tmp_path / "mean")))


@pytest.mark.parametrize("models", [["a"], ["a", "a"]])
def test_one_model_is_no_average(models, tmp_path):
    with pytest.raises(UserError, match="two different models or more"):
        average(AverageConfig(models=models, output=str(tmp_path / "mean")))
