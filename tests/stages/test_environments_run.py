"""A policy with an environment in the verb: the numbers of a resumed run, of two workers, and what is refused."""

import json
import shutil
from dataclasses import replace

import pytest

import concordant
from concordant.config.checks import validate
from concordant.config.cluster import ClusterConfig
from concordant.config.data import DataConfig
from concordant.config.environment import EnvironmentConfig
from concordant.config.model import ModelConfig
from concordant.config.sampling import SamplingConfig
from concordant.config.stages import BestOfNConfig, EvaluateConfig, GenerateConfig, PPOConfig
from concordant.core.errors import UserError
from concordant.data.records import Demonstration
from concordant.data.splits import load_records
from concordant.models.load import save_policy
from concordant.runs.metrics import metric
from tests.engines.tiny import tiny_policy
from tests.stages.small import in_a_process, metrics_of, train


class Talkative:
    """Replies to two turns. What it says depends on its seed and on a column."""

    role = "user"

    def __init__(self, seed, animal):
        self.words, self.left = f"{animal} {seed % 7}", 2

    def reply(self, said):
        self.left -= 1
        return self.words if self.left >= 0 else None

    def score(self):
        return float(self.left)


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    policy = tiny_policy()
    policy.model.lm_head.weight.data[policy.tokenizer.eos_token_id] *= 6  # so that some turns end by chance
    save_policy(policy, tmp_path / "policy")
    rows = [{"prompt": f"where does owl {i} live", "animal": ("owl", "fox")[i % 2]} for i in range(10)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "data": DataConfig(path="prompts.jsonl"), "model": ModelConfig(name="policy", device="cpu", precision="fp32"),
        "sampling": SamplingConfig(n=3, max_new_tokens=16), "advantage": "grpo",
        "environment": EnvironmentConfig(name="tests.stages.test_environments_run:Talkative"),
        "reward": ["rule:environment", "tests.stages.small:letters"],
    }  # fmt: skip


def steps(folder):
    return [{k: v for k, v in row.items() if "second" not in k} for row in metrics_of(folder)]


def test_a_run_with_an_environment_resumes_to_the_same_numbers(settings, tmp_path):
    def run(output, **more):
        often = train(max_steps=3, batch_size=2, learning_rate=1e-3, evaluate_every=3, save_every=1, keep_last=9)
        return concordant.ppo(PPOConfig(output=output, train=often, replay=1, dynamic_sampling=1, **settings, **more))

    whole = run("whole")
    rows = steps(whole)
    assert all(metric(name) for row in rows for name in row), "every metric has a meaning"
    assert max(row["environment/turns"] for row in rows) > 1
    samples = [json.loads(line) for line in (whole / "samples.jsonl").read_text().splitlines()]
    assert all(row["turns"][0]["role"] == row["turns"][-1]["role"] == "assistant" for row in samples)
    assert any(turn["content"].startswith(("owl ", "fox ")) for row in samples for turn in row["turns"])
    shutil.copytree(whole, "cut")
    for checkpoint in ("step-000002", "step-000003"):
        shutil.rmtree(tmp_path / "cut" / "checkpoints" / checkpoint)
    assert steps(run("cut", resume="auto")) == rows


def test_two_workers_learn_as_one_does_with_an_environment(settings):
    def config(workers):
        once = train(max_steps=1, batch_size=4, learning_rate=1e-3, evaluate_every=0)
        cluster = ClusterConfig(workers=workers, shards=2)
        return PPOConfig(output=f"by-{workers}", train=once, cluster=cluster, **settings)

    assert steps(in_a_process(concordant.ppo, config(2))) == steps(concordant.ppo(config(1)))


def test_evaluate_compares_policies_that_speak_with_an_environment(settings):
    config = EvaluateConfig(
        policies=["sft=policy", "same=policy"], output="report", data=settings["data"], bootstrap=10,
        environment=EnvironmentConfig(name="tests.stages.test_environments_run:Talkative"),
        reward=["rule:environment"], model=ModelConfig(device="cpu", precision="fp32"),
        sampling=SamplingConfig(max_new_tokens=16),
    )  # fmt: skip
    found = json.loads((concordant.evaluate(config) / "report.json").read_text())["policies"]
    assert found["sft"]["reward_mean"] == found["same"]["reward_mean"]
    assert -1 <= found["sft"]["reward_mean"] <= 2


ANIMALS = EnvironmentConfig(name="tests.stages.test_environments_run:Talkative")


def rows_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_generate_saves_all_turns_and_shows_the_environments_as_such(settings, tmp_path, capsys):
    config = GenerateConfig(
        data=settings["data"], model=settings["model"], environment=ANIMALS, output="answers.jsonl",
        sampling=SamplingConfig(max_new_tokens=16, n=2),
    )  # fmt: skip
    rows = rows_of(concordant.generate(config))
    assert len(rows) == 20 and all(row["response"] == row["turns"][-1]["content"] for row in rows)
    heard = [[turn["content"].split()[0] for turn in row["turns"] if turn["role"] == "user"] for row in rows]
    assert sum(map(len, heard)) > 5
    assert all(set(words) <= {("owl", "fox")[i // 2 % 2]} for i, words in enumerate(heard)), "the column of the prompt"
    assert all(row["score"] == 2 - len(words) - row["ended"] for row, words in zip(rows, heard, strict=True))
    assert concordant.generate(replace(config, output="")) is None
    shown = capsys.readouterr().out
    assert shown.count("[user] owl ") + shown.count("[user] fox ") == sum(map(len, heard))
    with pytest.raises(UserError, match="needs the column animal, which no prompt has"):
        concordant.generate(replace(config, data=DataConfig(), prompt="where"))


def test_best_of_n_keeps_the_best_conversation_as_a_dialogue_to_imitate(settings, tmp_path):
    """The rows of samples.jsonl bring an interrupted command back to the same files."""
    config = BestOfNConfig(
        data=settings["data"], model=settings["model"], environment=ANIMALS, output="best",
        reward=["tests.stages.small:letters"], sampling=SamplingConfig(max_new_tokens=16, n=3),
    )  # fmt: skip
    folder = concordant.best_of_n(config)
    samples, best = rows_of(folder / "samples.jsonl"), rows_of(folder / "sft.jsonl")
    assert not (folder / "pairs.jsonl").exists()
    assert any(len(answer["turns"]) > 1 for row in samples for answer in row["answers"])
    for row, kept in zip(samples, best, strict=True):
        answer = max(row["answers"], key=lambda answer: answer["reward"])
        assert kept == {"messages": row["prompt"] + answer["turns"], "first_response": 1}
        assert answer["response"] == answer["turns"][-1]["content"]
    loaded = load_records(DataConfig(path=str(folder / "sft.jsonl")), Demonstration, 0)
    found = {demonstration.messages for demonstration in [*loaded.train, *loaded.test]}
    assert {len(messages) for messages in found} == {len(row["messages"]) for row in best}
    before = (folder / "sft.jsonl").read_bytes()
    (folder / "sft.jsonl").unlink()
    assert concordant.best_of_n(replace(config, resume="auto")) == folder
    assert (folder / "sft.jsonl").read_bytes() == before


@pytest.mark.parametrize("make", [BestOfNConfig, GenerateConfig])
def test_verbs_that_answer_refuse_what_a_conversation_cannot_have(make):
    answers = {"model": ModelConfig("policy"), "sampling": SamplingConfig(n=2, stop_strings=["x"])}
    more = {"output": "best", "reward": ["rule:ends"]} if make is BestOfNConfig else {}
    with pytest.raises(UserError, match="a turn ends with an end token"):
        validate(make(data=DataConfig("prompts.jsonl"), environment=ANIMALS, **answers, **more))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"cluster": ClusterConfig(ray="local", max_lag=1)}, "answers that are sampled ahead are left alone"),
        ({"sampling": SamplingConfig(n=2, stop_strings=["x"])}, "a turn ends with an end token"),
        ({"sampling": SamplingConfig(n=2, min_new_tokens=2)}, "it would hold for every turn"),
        ({"environment": EnvironmentConfig()}, "the score of an environment needs one; give --environment"),
        ({"environment": EnvironmentConfig(turns=3), "reward": ["rule:ends"]}, "there is no environment"),
    ],
)
def test_settings_that_cannot_act_are_refused(settings, changes, why):
    with pytest.raises(UserError, match=why):
        validate(PPOConfig(output="run", **{**settings, **changes}))


def test_a_missing_column_is_named_before_the_first_step(settings):
    rows = [{"prompt": f"where does owl {i} live", "anymal": "owl"} for i in range(10)]
    with open("prompts.jsonl", "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    with pytest.raises(UserError, match=r"needs the column animal, which no prompt has.*anymal"):
        concordant.ppo(PPOConfig(output="run", train=train(), **settings))
