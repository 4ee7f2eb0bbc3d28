"""``reward.heads``: a run that trains an ensemble on one backbone, and the verbs that read it as an ensemble."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

import concordant
from concordant.config.audit import AuditConfig
from concordant.config.cluster import ClusterConfig
from concordant.config.data import DataConfig
from concordant.config.model import LoraConfig, ModelConfig
from concordant.config.sampling import SamplingConfig
from concordant.config.scoring import ScoringConfig
from concordant.config.stages import BestOfNConfig, PPOConfig, RewardConfig
from concordant.core.errors import UserError
from concordant.engines.reward_model import RewardModel
from concordant.models.load import save_policy
from concordant.models.reward_heads import HEADS_FILE
from concordant.runs.metrics import metric
from concordant.serve.served import Scorers
from tests.engines.scored import DIALOGUES
from tests.engines.tiny import tiny_policy
from tests.stages.small import in_a_process, metrics_of, plain, train

WORDS = ("owl", "fox", "tree", "brown", "old", "kind", "lives", "where", "colour", "what")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A tiny policy and 40 pairs, in whose chosen answers "the owl" stands."""
    folder = tmp_path_factory.mktemp("heads")
    save_policy(tiny_policy(), folder / "policy")
    rows = [
        {
            "prompt": f"where does {WORDS[i % 10]} {i} live",
            "chosen": f"the owl {WORDS[i % 7]} {i}",
            "rejected": f"no {i}",
        }
        for i in range(40)
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def config(world, output, **settings):
    usual = {"heads": 3, "validation_fraction": 0.2, "model": ModelConfig(**plain(world / "policy"))}
    return RewardConfig(
        output=str(world / output), data=DataConfig(str(world / "pairs.jsonl"), test_fraction=0.3),
        train=train(max_steps=3, batch_size=4, learning_rate=1e-2, save_every=1, keep_last=9), **usual | settings,
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(world):
    return concordant.reward(config(world, "run"))


def steps(folder):
    return [{k: v for k, v in row.items() if "second" not in k} for row in metrics_of(folder)]


def test_the_heads_learn_apart_and_their_figures_are_written(run):
    rows = metrics_of(run)
    assert all(row["reward/disagreement"] > 0 for row in rows) and all(metric(name) for name in rows[-1])
    weight_KH = load_file(run / "model" / HEADS_FILE)["weight"]
    assert len(weight_KH) == 3 and len({tuple(row) for row in weight_KH.tolist()}) == 3
    summary = json.loads((run / "reward_model.json").read_text())
    assert [set(row) for row in summary["heads"]] == 3 * [
        {"accuracy", "accuracy_low", "accuracy_high", "score_mean", "score_std", "length_slope", "length_mean"}
    ]
    means = [row["score_mean"] for row in summary["heads"]]
    assert sum(means) / 3 == pytest.approx(summary["score_mean"], abs=1e-6)


def test_a_resumed_run_and_two_workers_have_the_same_bits(world, run):
    shutil.copytree(run, world / "cut")
    for checkpoint in ("step-000002", "step-000003"):
        shutil.rmtree(world / "cut" / "checkpoints" / checkpoint)
    assert steps(concordant.reward(config(world, "cut", resume="auto"))) == steps(run)
    assert torch.equal(load_file(world / "cut/model" / HEADS_FILE)["weight"],
                       load_file(run / "model" / HEADS_FILE)["weight"])  # fmt: skip

    one, two = (config(world, f"by-{n}", cluster=ClusterConfig(workers=n, shards=2)) for n in (1, 2))
    assert steps(in_a_process(concordant.reward, two)) == steps(concordant.reward(one))


def test_best_of_n_ppo_audit_and_a_server_read_the_heads_as_an_ensemble(world, run, monkeypatch):
    monkeypatch.chdir(world)
    reader = {
        "data": DataConfig("pairs.jsonl"), "model": ModelConfig(**plain("policy")), "reward": ["run/model"],
        "sampling": SamplingConfig(n=2, max_new_tokens=4),
    }  # fmt: skip
    made = concordant.best_of_n(BestOfNConfig(output="best", scoring=ScoringConfig(ensemble="minimum"), **reader))
    answers = [a for line in (made / "samples.jsonl").read_text().splitlines() for a in json.loads(line)["answers"]]
    row = next(json.loads(line) for line in (made / "samples.jsonl").read_text().splitlines())
    model = RewardModel.from_pretrained("run/model", kernels="plain")
    figures = json.loads((run / "reward_model.json").read_text())["heads"]
    head_K = model.by_head([[*row["prompt"], {"role": "assistant", "content": row["answers"][0]["response"]}]])[0]
    scaled = [(x - f["score_mean"]) / f["score_std"] for x, f in zip(head_K.tolist(), figures, strict=True)]
    assert row["answers"][0]["reward"] == pytest.approx(min(scaled), abs=1e-4)
    assert all(a["disagreement"] > 0 for a in answers)
    once = train(max_steps=1, batch_size=2, learning_rate=1e-3, evaluate_every=0)
    ppo = PPOConfig(
        output="ppo", train=once, advantage="rloo", scoring=ScoringConfig(ensemble="mean-std", debias_length=True),
        **reader,
    )  # fmt: skip
    assert metrics_of(concordant.ppo(ppo))[-1]["reward/disagreement"] > 0
    alone = concordant.best_of_n(BestOfNConfig(output="alone", **reader))
    first = json.loads((alone / "samples.jsonl").read_text().splitlines()[0])["answers"][0]
    assert first["reward"] == pytest.approx(float(head_K.mean()), abs=1e-5), "without an ensemble: the mean, raw"
    found = concordant.audit(
        AuditConfig(reward=["run/model"], output="audit", data=DataConfig("pairs.jsonl"), bootstrap=50)
    )
    ensemble = json.loads((found / "audit.json").read_text())["ensemble"]
    assert ensemble["members"] == [f"run/model head {i}" for i in (1, 2, 3)] and len(ensemble["member_accuracies"]) == 3
    (said,) = Scorers([model]).score([DIALOGUES[0]])
    assert len(said.members) == 3 and said.score == pytest.approx(sum(said.members) / 3) and said.disagreement > 0


def test_heads_on_a_policys_own_base(world, monkeypatch):
    monkeypatch.chdir(world)
    lora = LoraConfig(rank=2, target_modules=["q_proj"])
    model = ModelConfig(**plain("policy"), lora=lora)
    run = concordant.reward(config(world, "adapted", model=model))
    once = train(max_steps=1, batch_size=2, learning_rate=1e-3, evaluate_every=0)

    def rows(share):
        ppo = PPOConfig(
            output=f"share-{share}", train=once, advantage="rloo", scoring=ScoringConfig(ensemble="mean"), model=model,
            data=DataConfig("pairs.jsonl"), reward=[str(run / "adapter")], share_backbone=share,
            sampling=SamplingConfig(n=2, max_new_tokens=4),
        )  # fmt: skip
        return metrics_of(concordant.ppo(ppo))[-1]

    shared, apart = rows("all"), rows("none")
    for name in ("reward/disagreement", "objective/score"):
        assert shared[name] == pytest.approx(apart[name], abs=1e-4)


def test_one_head_is_no_ensemble_and_old_figures_are_not_enough(world, run, monkeypatch):
    monkeypatch.chdir(world)
    settings = {"data": DataConfig("pairs.jsonl"), "model": ModelConfig(**plain("policy"))}
    ensemble = ScoringConfig(ensemble="mean")
    shutil.copytree("run/model", "old/model")
    figures = json.loads((run / "reward_model.json").read_text())
    (world / "old" / "reward_model.json").write_text(json.dumps(figures | {"heads": None}))
    with pytest.raises(UserError, match="score_mean and score_std is needed"):
        concordant.best_of_n(BestOfNConfig(output="x", reward=["old/model"], scoring=ensemble, **settings))
    (world / "old" / "reward_model.json").write_text(json.dumps(figures))
    (world / "old" / "model" / HEADS_FILE).unlink()
    with pytest.raises(UserError, match="a reward model that was trained with --heads"):
        concordant.best_of_n(BestOfNConfig(output="y", reward=["old/model"], scoring=ensemble, **settings))
