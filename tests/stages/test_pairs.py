"""Reward model and DPO on pairs of unlike lengths, some of which are left out: every number stays with its pair."""

import importlib
import json
import math
from types import SimpleNamespace

import pytest
import torch

import concordant
from concordant.config.data import DataConfig
from concordant.config.model import ModelConfig
from concordant.config.stages import DPOConfig, RewardConfig
from concordant.core.objective import BranchOutputs
from concordant.data.chat import Encoded
from concordant.data.records import Message, Pair
from concordant.engines.protocol import Done
from concordant.models.load import save_policy
from tests.algorithms.worlds import tree
from tests.engines.tiny import tiny_policy
from tests.stages.small import metrics_of, train

stage = importlib.import_module("concordant.stages.reward")


def pair(i, **known):
    return Pair((Message("user", f"question {i}"),), f"good {i}", f"bad {i}", **known)


def test_a_pairs_margin_stays_its_own_where_a_pair_before_it_was_left_out():
    pairs = [pair(0, margin=5.0), pair(1, margin=7.0), pair(2), pair(3, margin=1.0)]
    encoded = Encoded([tree([8], [9])] * 3, [0, 2, 3])
    objective = stage._objective(RewardConfig(margin=0.5), encoded, pairs)([2, 0, 1])
    assert objective.margin_P.tolist() == [1.5, 5.5, 0.5]


def test_every_pair_of_a_prompt_is_on_one_side():
    pairs = [Pair((Message("user", f"question {i % 20}"),), f"{i} good", f"{i} bad") for i in range(80)]
    train_pairs, validation = stage.slice_off(pairs, 0.25, 0)
    assert len(validation) == 20 and sorted(map(repr, train_pairs + validation)) == sorted(map(repr, pairs))
    assert not {p.prompt for p in train_pairs} & {p.prompt for p in validation}


def test_scores_and_lengths_go_to_the_side_they_belong_to():
    """Chosen answers are longer in two of three pairs, of which one is ranked right; the third pair is ranked right."""
    trees = [tree([8, 9, 10], [11]), tree([8, 9], [10]), tree([8], [9, 10, 11])]
    scores = torch.tensor([2.0, 1.0, 0.0, 3.0, 5.0, 4.0])
    scorer = SimpleNamespace(forward=lambda trees, want: Done(BranchOutputs(score_B=scores)))
    summary = stage.measure_on_heldout(scorer, trees, [pair(i, probability=0.9) for i in range(3)])
    assert summary.accuracy.value == pytest.approx(2 / 3) and summary.longer_accuracy.value == pytest.approx(2 / 3)
    assert {g.name: (g.pairs, g.accuracy.value) for g in summary.by_length} == {"longer": (2, 0.5), "shorter": (1, 1.0)}
    assert summary.bayes_accuracy is not None and summary.bayes_accuracy.value == pytest.approx(0.9)


LONG = "the owl lives in a tree " * 40


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def settings(tmp_path):
    """Pairs of unlike lengths; the first held-out one is too long and left out."""
    save_policy(tiny_policy(), tmp_path / "policy")
    answers = ["brown", "the owl is brown", "in a tree", "the fox", "where", "the owl lives in a tree"]
    rows = [{"prompt": f"what {i}", "chosen": answers[i % 6], "rejected": answers[i % 5 - 1]} for i in range(12)]
    rows = [row for row in rows if row["chosen"] != row["rejected"]]
    held_out = [
        {"prompt": "long", "chosen": LONG, "rejected": "no", "probability": 0.5},
        {"prompt": "one", "chosen": "the owl is brown", "rejected": "a", "probability": 0.9},
        {"prompt": "two", "chosen": "a", "rejected": "the owl lives in a tree", "probability": 0.7},
    ]
    data = DataConfig(
        path=write(tmp_path / "train.jsonl", rows),
        test_path=write(tmp_path / "test.jsonl", held_out),
        max_response_tokens=64,
    )
    model = ModelConfig(name=str(tmp_path / "policy"), device="cpu", precision="fp32")
    return {"data": data, "model": model, "train": train(max_steps=1, batch_size=4, learning_rate=1e-9)}


def test_the_held_out_probabilities_are_those_of_the_pairs_that_were_kept(settings, tmp_path):
    folder = concordant.reward(RewardConfig(output=str(tmp_path / "run"), **settings))
    summary = json.loads((folder / "reward_model.json").read_text())
    assert (summary["pairs"], summary["bayes_accuracy"]) == (2, pytest.approx(0.8))


def test_before_anything_is_learnt_policy_and_reference_agree_on_held_out_pairs_too(settings, tmp_path):
    folder = concordant.dpo(DPOConfig(output=str(tmp_path / "run"), **settings))
    (row,) = metrics_of(folder)
    assert row["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert row["eval/loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert row["eval/rewards/margins"] == pytest.approx(0, abs=1e-4) and row["eval/samples"] == 2
