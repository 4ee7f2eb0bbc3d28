"""``concordant constitution`` from prompts to revised answers."""

from __future__ import annotations

import json

import pytest

import concordant
from concordant.config.data import DataConfig
from concordant.config.judging import ConstitutionConfig, EndpointConfig
from concordant.config.model import ModelConfig
from concordant.config.sampling import SamplingConfig
from concordant.core.errors import RunStopped, UserError
from concordant.data.records import Demonstration
from concordant.data.splits import load_records
from concordant.models.load import save_policy
from tests.engines.tiny import tiny_policy
from tests.feedback.server import Judge, status

SAMPLING = SamplingConfig(max_new_tokens=8)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_policy(tiny_policy(), tmp_path / "model")
    rows = [{"prompt": f"where does the owl number {i} live"} for i in range(8)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "my_critic.py").write_text(
        "def polite(prompt, response, principle):\n"
        "    return None if '2' in prompt[-1].content else 'Please: ' + principle\n"
        "def number(prompt, response):\n    return 3\n"
        "def other(prompt, answer):\n    return ''\n"
    )
    return tmp_path


def run(folder, critic="", **settings):
    config = ConstitutionConfig(
        output=str(folder), data=DataConfig("prompts.jsonl", test_fraction=0.1), critic=critic, max_answer_tokens=8,
        model=ModelConfig("model", device="cpu", precision="fp32"), sampling=SAMPLING, **settings,
    )  # fmt: skip
    return concordant.constitution(config)


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_policy_revises_its_own_answers_and_a_second_command_asks_nothing(here):
    made = run(here / "out")
    first = {name: (made / name).read_bytes() for name in ("sft.jsonl", "drafts.jsonl", "asked.jsonl")}
    drafts = rows(made / "drafts.jsonl")
    assert all(len(d["answers"]) == 2 for d in drafts if "dropped" not in d) and len(drafts) >= 6
    run(here / "out")
    assert {name: (made / name).read_bytes() for name in first} == first
    assert json.loads((made / "constitution.json").read_text())["asked"] == 0


def test_the_result_is_data_for_sft(here):
    with pytest.raises(UserError, match="max_answer_tokens"):  # a function has no such limit
        run(here / "refused", "my_critic:polite")
    made = _by_function(here / "out", "my_critic:polite")
    answers = {row["prompt"][0]["content"]: row["response"] for row in rows(made / "sft.jsonl")}
    for asked, answer in answers.items():
        assert answer.startswith("Please: ") is ("2" not in asked)
    loaded = load_records(DataConfig(str(made / "sft.jsonl"), test_fraction=0.2), Demonstration, 0)
    assert len(loaded.train) + len(loaded.test) == len(answers)
    assert json.loads((made / "card.json").read_text())["kinds"] == {"dialogues": len(answers)}


def _by_function(folder, critic):
    config = ConstitutionConfig(
        output=str(folder), data=DataConfig("prompts.jsonl", test_fraction=0.1), critic=critic,
        model=ModelConfig("model", device="cpu", precision="fp32"), sampling=SAMPLING,
    )  # fmt: skip
    return concordant.constitution(config)


@pytest.mark.parametrize(
    ("critic", "said"),
    [
        ("my_critic:number", "returned 3; expected the revised answer"),
        ("my_critic:other", "expected \\(prompt, response, principle\\)"),
        ("my_critic:missing", "has no function missing"),
    ],
)
def test_a_function_that_cannot_revise_is_an_error_that_names_it(here, critic, said):
    with pytest.raises(UserError, match=f"critic .*{said}"):
        _by_function(here / "out", critic)


def test_a_server_that_goes_down_in_the_middle_loses_nothing(here):
    endpoint = EndpointConfig(model="m", parallel=1, retries=0, wait=0.0)
    with Judge(lambda asked: f"told: {len(asked)}") as judge:
        judge.deeds = [None] * 4 + [status(500)] * 20
        with pytest.raises(RunStopped, match="asks for the rest"):
            run(here / "out", judge.url, endpoint=endpoint)
        judge.deeds, before = [], judge.asked.total()
        made = run(here / "out", judge.url, endpoint=endpoint)
        count = len(rows(made / "drafts.jsonl"))
        assert judge.asked.total() - before == 2 * count - 4  # four critiques were remembered
    assert all(row["response"].startswith("told: ") for row in rows(made / "sft.jsonl")) and count >= 6


def test_random_weights_are_refused(here):
    config = ConstitutionConfig(
        output="out", data=DataConfig("prompts.jsonl"), model=ModelConfig("builtin:tiny", device="cpu")
    )
    with pytest.raises(UserError, match="random weights"):
        concordant.constitution(config)
