"""Reward functions inside the verbs: what is refused before the first step, and what is counted."""

import json
from dataclasses import replace

import pytest

import concordant
from concordant.cli import main
from concordant.config.data import DataConfig
from concordant.config.model import ModelConfig
from concordant.config.sampling import SamplingConfig
from concordant.config.stages import BestOfNConfig, EvaluateConfig, PPOConfig, PrepareConfig
from concordant.core.errors import UserError
from concordant.models.load import save_policy
from tests.engines.tiny import tiny_policy
from tests.stages.small import metrics_of, train

MINE = """
import json, os, sys

def needs_topic(prompt, response, topic):
    return 1.0

def abstains_on_even(prompt, response, number):
    os.chdir("/")
    return None if number % 2 == 0 else float(len(response))

def fails_on_even(prompt, response, number):
    return 1 / (number % 2)

def seen(prompts, completions, answer, level=None, **columns):
    with open(os.environ["SEEN_BY_A_TEST"], "a") as file:
        for row in zip(answer, level, columns["parts"]):
            print(json.dumps(row), file=file)
    return [1.0] * len(prompts)

def leaves(prompt, response):
    sys.exit(0)
"""


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """A tiny policy, eight prompts and a module of rewards; the working directory is the folder of all three."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "rewards_of_a_test.py").write_text(MINE)
    save_policy(tiny_policy(), tmp_path / "policy")
    rows = [{"prompt": f"where does owl {i} live", "extra_info": {"number": i}} for i in range(8)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = ModelConfig(name="policy", device="cpu", precision="fp32")
    sampling = SamplingConfig(max_new_tokens=4)
    return {"output": "run", "data": DataConfig(path="prompts.jsonl"), "model": model, "sampling": sampling}


def of(function):
    return [f"rewards_of_a_test:{function}"]


def ppo_of(settings, function, **changes):
    training = train(max_steps=1, batch_size=4)
    return PPOConfig(**settings, train=training, reward=of(function), advantage="rloo", **changes)


def with_samples(settings):
    return settings | {"sampling": SamplingConfig(max_new_tokens=4, n=2)}


def evaluation(settings, **changes):
    policies = ["sft=policy"]
    model = ModelConfig(device="cpu", precision="fp32")
    return EvaluateConfig(**settings | {"model": model}, policies=policies, bootstrap=10, **changes)


def test_every_verb_refuses_a_missing_column_before_it_samples(settings):
    refused = "needs_topic needs the column topic, which no prompt has.* Found columns: .*extra_info.number"
    with pytest.raises(UserError, match=refused):
        concordant.ppo(ppo_of(with_samples(settings), "needs_topic"))
    with pytest.raises(UserError, match=refused):
        concordant.best_of_n(BestOfNConfig(**with_samples(settings) | {"output": "best"}, reward=of("needs_topic")))
    for key in ("reward", "judge"):
        with pytest.raises(UserError, match=refused):
            concordant.evaluate(evaluation(settings, **{key: of("needs_topic")}))


@pytest.mark.parametrize("source", ["file", "prepared"])
def test_columns_of_the_file_reach_a_function_in_every_verb(settings, tmp_path, monkeypatch, source):
    rows = [{"prompt": f"owl {i}?", "answer": f"a{i}", "level": i, "parts": [{"n": i}]} for i in range(8)]
    rows[3]["level"] = None
    (tmp_path / "columns.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = settings | {"data": DataConfig(path="columns.jsonl")}
    if source == "prepared":
        concordant.prepare(PrepareConfig(data=settings["data"], output="prepared"))
        settings["data"] = DataConfig(path="prepared")
    right = {json.dumps([row["answer"], row["level"], row["parts"]]) for row in rows}

    def gets_what_is_there(verb, config):
        monkeypatch.setenv("SEEN_BY_A_TEST", str(tmp_path / f"{config.output}.seen"))
        verb(config)
        found = (tmp_path / f"{config.output}.seen").read_text().splitlines()
        assert found and set(found) <= right

    gets_what_is_there(concordant.ppo, ppo_of(with_samples(settings), "seen"))
    best = BestOfNConfig(**with_samples(settings) | {"output": "best"}, reward=of("seen"))
    gets_what_is_there(concordant.best_of_n, best)
    for key in ("reward", "judge"):
        gets_what_is_there(concordant.evaluate, evaluation(settings | {"output": key}, **{key: of("seen")}))


def test_ppo_counts_answers_without_a_score(settings, tmp_path):
    concordant.ppo(ppo_of(with_samples(settings), "abstains_on_even"))
    (row,) = metrics_of(tmp_path / "run")
    assert row["reward/abstained"] in (2, 4, 6, 8) and row["reward/errors"] == 0


def test_ppo_counts_errors_and_goes_on(settings, tmp_path):
    concordant.ppo(ppo_of(with_samples(settings), "fails_on_even", reward_on_error="skip"))
    (row,) = metrics_of(tmp_path / "run")
    assert row["reward/abstained"] == row["reward/errors"] > 0


def test_best_of_n_and_evaluate_say_how_many_answers_have_no_score(settings, capsys):
    skip = {"reward": of("fails_on_even"), "reward_on_error": "skip"}
    concordant.best_of_n(BestOfNConfig(**with_samples(settings) | {"output": "best"}, **skip))
    output = capsys.readouterr()
    assert "reward rewards_of_a_test:fails_on_even: " in output.out + output.err
    concordant.evaluate(evaluation(settings, **skip))
    output = capsys.readouterr()
    assert "1 answer without a score, 1 error;" in output.out + output.err


def test_evaluate_scores_every_answer_once(settings, tmp_path, capsys):
    """Best-of-n's answers are chosen by their rewards. They are not scored, nor counted, a second time."""
    (tmp_path / "counted_rewards.py").write_text(COUNTED)
    policies = ["sft=policy", "best=best_of_n:3:policy"]
    concordant.evaluate(replace(evaluation(settings, reward=["counted_rewards:counted"]), policies=policies))
    calls = (tmp_path / "calls.txt").read_text().split()
    prompts = json.loads((tmp_path / "run" / "report.json").read_text())["prompts"]
    assert prompts > 0 and len(calls) == prompts * (1 + 3)
    output = capsys.readouterr()
    assert f"counted: {calls.count('none')} answers without a score, 0 errors" in output.out + output.err


COUNTED = """
def counted(prompt, response, number):
    score = None if (number + len(response)) % 2 else 0.1 * len(response)
    with open("calls.txt", "a") as file:
        file.write("none " if score is None else "some ")
    return score
"""


def test_no_policy_wins_a_prompt_at_which_the_judge_abstains(settings, tmp_path):
    """The judge scores the prompts of even numbers alone, and there the second policy is better."""
    (tmp_path / "judges.py").write_text(
        "seen = set()\n"
        "def judge(prompt, response, number):\n"
        "    again = number in seen\n"
        "    seen.add(number)\n"
        "    return None if number % 2 else 10.0 * again\n"
    )
    settings["data"] = DataConfig(path="prompts.jsonl", test_fraction=0.75)
    policies = ["sft=policy", "again=policy"]
    concordant.evaluate(replace(evaluation(settings, judge=["judges:judge"]), policies=policies))
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["prompts"] == 6 and report["policies"]["again"]["win_rate"] == (3 + 3 * 0.5) / 6


def test_a_reward_that_exits_ends_the_command_with_an_error(settings, capsys):
    command = "best-of-n --model.name policy --model.device cpu --data prompts.jsonl --output best --reward"
    assert main([*command.split(), *of("leaves"), "--sampling.max_new_tokens", "4"]) == 2
    assert "leaves failed for " in capsys.readouterr().err
