"""The settings of DAPO and of ReMax in the verb: a resume to the same numbers, two workers, names of metrics."""

import json
import shutil

import pytest

import concordant
from concordant.config.cluster import ClusterConfig
from concordant.config.data import DataConfig
from concordant.config.model import ModelConfig
from concordant.config.sampling import SamplingConfig
from concordant.config.stages import KLConfig, PPOConfig
from concordant.models.load import save_policy
from concordant.runs.metrics import metric
from tests.engines.tiny import tiny_policy
from tests.stages.small import in_a_process, metrics_of, train

SEVERAL = {
    "advantage": "grpo", "policy_loss": "gspo", "clip_high": 0.3, "dynamic_sampling": 2, "mask_truncated": True,
    "aggregation": "seq-mean-token-sum-norm", "kl": KLConfig(place="loss", estimator="k3+"),
    "overlong_penalty": 0.5, "overlong_buffer": 2,
}  # fmt: skip


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_policy(tiny_policy(), tmp_path / "policy")
    rows = [{"prompt": f"where does owl {i} live"} for i in range(10)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = ModelConfig(name="policy", device="cpu", precision="fp32")
    return {
        "data": DataConfig(path="prompts.jsonl"), "model": model, "sampling": SamplingConfig(n=3, max_new_tokens=6),
        "reward": ["tests.stages.small:letters"],
    }  # fmt: skip


def steps(folder):
    return [{k: v for k, v in row.items() if "second" not in k} for row in metrics_of(folder)]


def test_dynamic_sampling_resumes_to_the_same_numbers(settings, tmp_path):
    def run(output, **more):
        often = train(max_steps=3, batch_size=2, learning_rate=1e-3, evaluate_every=0, save_every=1, keep_last=9)
        return concordant.ppo(PPOConfig(output=output, train=often, **SEVERAL, **settings, **more))

    whole = run("whole")
    rows = steps(whole)
    assert all(metric(name) for row in rows for name in row), "every metric has a meaning"
    assert {"dynamic_sampling/tries", "dynamic_sampling/replaced", "response/left_out"} <= rows[-1].keys()
    shutil.copytree(whole, "cut")
    for checkpoint in ("step-000002", "step-000003"):
        shutil.rmtree(tmp_path / "cut" / "checkpoints" / checkpoint)
    assert steps(run("cut", resume="auto")) == rows


@pytest.mark.parametrize("method", [SEVERAL, {"advantage": "remax", "policy_loss": "cispo", "clip_high": 4.0}])
def test_two_workers_learn_as_one_does(settings, method):
    def config(workers):
        once = train(max_steps=1, batch_size=4, learning_rate=1e-3, evaluate_every=0)
        cluster = ClusterConfig(workers=workers, shards=2)
        return PPOConfig(output=f"by-{workers}", train=once, cluster=cluster, **method, **settings)

    assert steps(in_a_process(concordant.ppo, config(2))) == steps(concordant.ppo(config(1)))
