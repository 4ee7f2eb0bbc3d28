"""Which number of an evaluation is whose: answers are written by hand, so that each mean can be computed beside."""

import importlib
import json
import math

import pytest
import torch

import concordant
from concordant.algorithms.best_of_n import Choice
from concordant.config.data import DataConfig
from concordant.config.model import ModelConfig
from concordant.config.sampling import SamplingConfig
from concordant.config.stages import EvaluateConfig
from concordant.models.load import save_policy
from tests.engines.conformance.test_learner import pairs
from tests.engines.tiny import tiny_policy

stage = importlib.import_module("concordant.stages.evaluate")
NAMES = ("owl", "fox")
FP32 = ModelConfig(device="cpu", precision="fp32")


@pytest.fixture
def config(tmp_path):
    save_policy(tiny_policy(), tmp_path / "sft")
    rows = [{"prompt": f"where does the {name} live"} for name in NAMES]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return EvaluateConfig(
        policies=[f"sft={tmp_path / 'sft'}", f"best=best_of_n:2:{tmp_path / 'sft'}"],
        output=str(tmp_path / "report"),
        data=DataConfig(path=str(tmp_path / "prompts.jsonl")),
        reward=["tests.stages.small:letters"],
        judge=["rule:ends"],
        model=FP32,
        sampling=SamplingConfig(max_new_tokens=4),
        bootstrap=10,
    )


def test_the_best_of_n_brings_its_own_length_end_and_scores(config, monkeypatch):
    """The better answer has more o's, is the second one, has another length and ends where the first does not."""
    sample = stage._sample

    def written(sampler, n, bench):
        trees, choices = sample(sampler, n, bench)
        if n == 1:
            return trees, choices
        made = [Choice(p.messages, ["a", "oooo"], [0.0, 4.0], [9, 2], [False, True]) for p in bench.prompts]
        return trees, made

    monkeypatch.setattr(stage, "_sample", written)
    numbers = json.loads((concordant.evaluate(config) / "report.json").read_text())["policies"]["best"]
    assert (numbers["length_mean"], numbers["eos_fraction"]) == (2.0, 1.0)
    assert (numbers["reward_mean"], numbers["judge_mean"], numbers["gold_mean"]) == (4.0, 1.0, None)


def test_kl_is_of_a_response_whatever_its_length():
    """Of each answer, the sum over its tokens of log π - log π_ref, and not their mean."""
    trees, policy, reference = pairs(4), tiny_policy(), tiny_policy(seed=1)
    trees = [type(tree)(tree.prompt_T, tree.branches[:1]) for tree in trees]
    expected = []
    for tree in trees:
        row, start = torch.cat([tree.prompt_T, tree.branches[0].ids_T])[None], len(tree.prompt_T) - 1
        with torch.no_grad():
            mine, theirs = ((m.model(row).logits[0, start:-1] / 0.5).log_softmax(-1) for m in (policy, reference))
        expected.append(float((mine - theirs).gather(1, tree.branches[0].ids_T[:, None]).sum()))
    config = EvaluateConfig(model=FP32, sampling=SamplingConfig(temperature=0.5))
    assert stage._kl(policy, reference, trees, config) == pytest.approx(expected, rel=1e-4)


def test_perplexity_is_of_the_model_and_not_of_how_it_is_sampled(config, tmp_path):
    """exp of the mean negative log-prob of all tokens of a text but the first."""
    (tmp_path / "text.txt").write_text("where does the owl live the owl lives in a tree")
    config.policies, config.perplexity_text = config.policies[:1], str(tmp_path / "text.txt")
    config.sampling.temperature = 0.5
    numbers = json.loads((concordant.evaluate(config) / "report.json").read_text())["policies"]["sft"]
    policy = tiny_policy()
    ids = torch.tensor(policy.tokenizer((tmp_path / "text.txt").read_text(), add_special_tokens=False)["input_ids"])
    with torch.no_grad():
        table = policy.model(ids[None]).logits[0, :-1].log_softmax(-1)
    expected = math.exp(-float(table.gather(1, ids[1:, None]).mean()))
    assert numbers["perplexity"] == pytest.approx(expected, rel=1e-4)
