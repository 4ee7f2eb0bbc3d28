"""Ensembles, axes and a constraint inside the verbs, with real reward models, and what their runs write."""

import copy
import json
import shutil
from dataclasses import replace

import pytest

import concordant
from concordant.config.cluster import ClusterConfig
from concordant.config.data import DataConfig
from concordant.config.model import ModelConfig
from concordant.config.sampling import SamplingConfig
from concordant.config.scoring import ConstraintConfig, ScoringConfig
from concordant.config.stages import BestOfNConfig, EvaluateConfig, PPOConfig
from concordant.core.errors import UserError
from concordant.engines.reward_model import RewardModel
from concordant.models.load import save_policy
from concordant.runs.metrics import metric
from tests.engines.tiny import tiny_policy
from tests.stages.small import in_a_process, metrics_of, train

FIGURES = {"score_mean": 0.1, "score_std": 0.5, "length_slope": 0.02, "length_mean": 3.0}


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """A tiny policy, eight prompts and two reward models with their figures, in the working directory."""
    monkeypatch.chdir(tmp_path)
    save_policy(tiny_policy(), tmp_path / "policy")
    for seed in (1, 2):
        RewardModel.from_backbone(tiny_policy(seed), seed=seed).save(tmp_path / f"r{seed}" / "model")
        (tmp_path / f"r{seed}" / "reward_model.json").write_text(json.dumps(FIGURES))
    rows = [{"prompt": f"where does owl {i} live"} for i in range(8)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = ModelConfig(name="policy", device="cpu", precision="fp32")
    return {
        "data": DataConfig(path="prompts.jsonl"), "model": model, "sampling": SamplingConfig(n=2, max_new_tokens=4),
        "reward": ["helpful=r1/model", "helpful=r2/model", "short=tests.stages.small:letters=-0.1"],
        "scoring": ScoringConfig(ensemble="mean-std", debias_length=True),
    }  # fmt: skip


GUARDED = {
    "advantage": "rloo",
    "constraint": ConstraintConfig(cost="tests.stages.small:letters", limit=1.0, rate=0.5),
    "stop_disagreement": 1e6,
}


def steps(folder):
    """The metrics of the steps without what a clock says."""
    return [{k: v for k, v in row.items() if "second" not in k} for row in metrics_of(folder)]


def test_a_guarded_run_logs_its_guards_and_resumes_to_the_same_numbers(settings, tmp_path):
    def run(output, **more):
        often = train(max_steps=3, batch_size=2, learning_rate=1e-3, evaluate_every=1, save_every=1, keep_last=9)
        return concordant.ppo(PPOConfig(output=output, train=often, **GUARDED, **settings, **more))

    whole = run("whole")
    last = steps(whole)[-1]
    assert {
        "axis/helpful",
        "axis/short",
        "reward/disagreement",
        "constraint/cost",
        "constraint/multiplier",
    } <= last.keys()
    assert {"eval/axis/helpful", "eval/reward/disagreement", "eval/constraint/cost", "eval/past_limit"} <= last.keys()
    assert all(metric(name) for name in last), "every metric has a meaning"
    events = [json.loads(line) for line in (whole / "events.jsonl").read_text().splitlines()]
    slopes = {e["reward"]: e["slope"] for e in events if e["kind"] == "correction"}
    assert slopes == {"r1/model": 0.02, "r2/model": 0.02}
    shutil.copytree(whole, "cut")
    for checkpoint in ("step-000002", "step-000003"):
        shutil.rmtree(tmp_path / "cut" / "checkpoints" / checkpoint)
    assert steps(run("cut", resume="auto")) == steps(whole)


def test_two_workers_score_with_an_ensemble_as_one_does(settings):
    once = train(max_steps=1, batch_size=4, learning_rate=1e-3, evaluate_every=0)

    def config(workers):
        cluster = ClusterConfig(workers=workers, shards=2)
        return PPOConfig(output=f"by-{workers}", train=once, cluster=cluster, advantage="rloo", **settings)

    assert steps(in_a_process(concordant.ppo, config(2))) == steps(concordant.ppo(config(1)))


def test_best_of_n_and_evaluate_tell_the_disagreement(settings):
    made = concordant.best_of_n(BestOfNConfig(output="best", **settings))
    rows = [json.loads(line) for line in (made / "samples.jsonl").read_text().splitlines()]
    assert all(answer["disagreement"] >= 0 for row in rows for answer in row["answers"])
    del settings["sampling"]
    report = concordant.evaluate(
        EvaluateConfig(
            output="report", policies=["sft=policy", "best=best_of_n:2:policy"], bootstrap=50,
            sampling=SamplingConfig(max_new_tokens=4), **settings | {"model": ModelConfig(device="cpu")},
        )
    )  # fmt: skip
    page = (report / "report.md").read_text()
    assert "| policy | helpful | short | disagreement |" in page.replace(" --- |", "")


def test_members_with_two_tokenizers_each_read_by_their_own(settings, tmp_path):
    model = RewardModel.from_backbone(tiny_policy(2, vocab_size=310), seed=2)
    other = copy.deepcopy(model.tokenizer)
    other.add_tokens(["owl", "live"])
    replace(model, tokenizer=other).save(tmp_path / "r2" / "model")
    settings |= {"reward": ["r1/model", "r2/model"], "scoring": ScoringConfig(ensemble="mean")}
    made = concordant.best_of_n(BestOfNConfig(output="best", **settings))
    rows = [json.loads(line) for line in (made / "samples.jsonl").read_text().splitlines()]
    members = [RewardModel.from_pretrained(f"r{i}/model") for i in (1, 2)]
    assert len(members[1].tokenizer) == len(members[0].tokenizer) + 2
    for row in rows:
        texts = [
            [{"role": "user", "content": row["prompt"][-1]["content"]}, {"role": "assistant", "content": a["response"]}]
            for a in row["answers"]
        ]
        scores = [[(s - 0.1) / 0.5 for s in member.score(texts)] for member in members]
        for a, both in zip(row["answers"], zip(*scores, strict=True), strict=True):
            assert a["reward"] == pytest.approx(sum(both) / 2, abs=1e-4)


def test_an_ensemble_of_models_without_figures_is_refused(settings, tmp_path):
    (tmp_path / "r2" / "reward_model.json").unlink()
    with pytest.raises(UserError, match=r"r2.reward_model.json with length_slope is needed"):
        concordant.best_of_n(BestOfNConfig(output="best", **settings))
