"""``concordant judge`` from data to labelled pairs, against a real local server."""

from __future__ import annotations

import json
import os
from collections import Counter

import pytest

import concordant
from concordant.cli import main
from concordant.config.data import DataConfig
from concordant.config.judging import EndpointConfig, JudgeConfig
from concordant.config.model import ModelConfig
from concordant.core.errors import RunFailed, RunStopped, UserError
from concordant.data.records import Pair
from concordant.data.splits import load_records
from concordant.models.load import save_policy
from tests.engines.tiny import tiny_policy
from tests.feedback.server import Judge, first_and_second, hang_up, likes_longer, stall, status

# The longer answer is the chosen one in four pairs of six.
PAIRS = [
    {"prompt": f"Question {i}?", "chosen": "A long answer." if i < 4 else "Short.", "rejected": f"Answer {i}"}
    for i in range(6)
]
FAST = {"model": "m", "wait": 0.0, "retries": 1, "parallel": 2, "timeout": 5.0}


@pytest.fixture
def data(tmp_path):
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, PAIRS)))
    return tmp_path / "pairs.jsonl"


@pytest.fixture
def judge():
    with Judge(likes_longer) as made:
        yield made


def run(data, source, output, endpoint=(), **settings):
    config = JudgeConfig(data=DataConfig(str(data)), judge=source, output=str(output), **settings)
    config.endpoint = EndpointConfig(**{**FAST, **dict(endpoint)}) if source.startswith("http") else EndpointConfig()
    return concordant.judge(config)


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def numbers(folder):
    return json.loads((folder / "judge.json").read_text())


def test_pairs_get_the_judges_labels_and_every_trainer_reads_them(data, judge, tmp_path):
    made = run(data, judge.url, tmp_path / "out", margin=2.0)
    found = {row["prompt"][0]["content"]: row for row in rows(made / "pairs.jsonl")}
    assert len(found) == 6
    assert all(len(row["chosen"]) > len(row["rejected"]) and row["margin"] == 2.0 for row in found.values())
    loaded = load_records(DataConfig(str(made / "pairs.jsonl"), test_fraction=0.2), Pair, 0)
    assert {p.margin for p in (*loaded.train, *loaded.test)} == {2.0}
    trust = numbers(made)["trust"]
    assert trust["agreement"]["value"] == pytest.approx(4 / 6) and trust["flips"]["value"] == 0
    assert trust["first_place"]["value"] == 0.5 and trust["first_place"]["low"] < 0.5 < trust["first_place"]["high"]
    card = json.loads((made / "card.json").read_text())
    assert card["kinds"] == {"preference pairs": 6} and "labelled by" in card["notes"][0]


def test_both_orders_of_every_pair_are_asked_once(data, judge, tmp_path):
    run(data, judge.url, tmp_path / "out")
    orders = Counter(first_and_second(asked) for asked in judge.asked.elements())
    expected = [(p["chosen"], p["rejected"]) for p in PAIRS] + [(p["rejected"], p["chosen"]) for p in PAIRS]
    assert orders == Counter(expected) and set(judge.asked.values()) == {1}


def test_a_judge_that_reads_only_the_place_labels_nothing_and_is_found_out(data, tmp_path):
    with Judge(lambda asked: "Better: first") as judge, pytest.raises(RunFailed, match="nothing was made"):
        run(data, judge.url, tmp_path / "out")
    found = numbers(tmp_path / "out")
    assert found["left_out"] == {"each order preferred the same place": 6}
    assert found["trust"]["flips"]["value"] == found["trust"]["first_place"]["value"] == 1.0


def test_a_tie_in_one_order_is_a_weaker_preference(data, tmp_path):
    def says(asked):
        first, second = first_and_second(asked)
        return "Better: first" if len(first) > len(second) else "Better: tie"

    with Judge(says) as judge:
        made = run(data, judge.url, tmp_path / "out", margin=1.0)
    assert {row["margin"] for row in rows(made / "pairs.jsonl")} == {0.5}


def test_without_a_margin_no_column_is_written(data, judge, tmp_path):
    assert all("margin" not in row for row in rows(run(data, judge.url, tmp_path / "out") / "pairs.jsonl"))


def test_failures_are_counted_and_a_second_command_asks_only_for_what_is_missing(data, judge, tmp_path):
    judge.deeds = [status(500), hang_up, None, status(200, "nonsense"), status(400, "no"), None, stall(0.5)]
    made = run(data, judge.url, tmp_path / "out", {"retries": 0, "parallel": 1, "timeout": 0.3})
    first, asked = numbers(made), judge.asked.copy()
    # Five questions failed: both of the first pair, and one of each of the next three.
    assert sum(first["left_out"].values()) == 4 and first["made"] == 2 and first["asked"] == 7
    run(data, judge.url, tmp_path / "out")
    again = judge.asked - asked
    assert again.total() == 5 and numbers(made)["made"] == 6 and numbers(made)["remembered"] == 7
    run(data, judge.url, tmp_path / "out")
    assert judge.asked.total() == asked.total() + 5  # a third command asks nothing


def test_an_answer_without_a_verdict_is_counted_and_not_asked_again(data, tmp_path):
    with Judge(lambda asked: "I cannot say.") as judge:
        for _ in range(2):
            with pytest.raises(RunFailed):
                run(data, judge.url, tmp_path / "out")
        assert judge.asked.total() == 12
    assert numbers(tmp_path / "out")["left_out"] == {"an answer of the judge without a verdict": 6}


def test_a_budget_ends_the_command_with_what_it_has_and_the_next_one_goes_on(data, judge, tmp_path):
    made = tmp_path / "out"
    with pytest.raises(RunStopped, match="the budget is used up; .*out has what there is, and the same command asks"):
        run(data, judge.url, made, {"max_calls": 5, "parallel": 1})
    assert judge.asked.total() == 5 and numbers(made)["made"] == len(rows(made / "pairs.jsonl")) == 2
    assert numbers(made)["left_out"] == {"the budget is used up": 4}
    run(data, judge.url, tmp_path / "out", {"max_calls": 7, "parallel": 1})
    assert judge.asked.total() == 12 and numbers(made)["made"] == 6


def test_a_judge_that_goes_down_stops_the_command_and_loses_nothing(data, judge, tmp_path):
    judge.deeds = [None] * 6 + [status(503)] * 100
    with pytest.raises(RunStopped, match="the server does not answer.*asks for the rest"):
        run(data, judge.url, tmp_path / "out", {"parallel": 1, "retries": 0})
    assert numbers(tmp_path / "out")["made"] == 3
    judge.deeds = []
    run(data, judge.url, tmp_path / "out")
    assert numbers(tmp_path / "out")["made"] == 6 and numbers(tmp_path / "out")["asked"] == 6


def test_a_torn_line_of_the_cache_is_asked_again_and_breaks_no_other(data, judge, tmp_path):
    made = run(data, judge.url, tmp_path / "out")
    cache = made / "asked.jsonl"
    whole = cache.read_bytes()
    cache.write_bytes(whole[:-10])
    run(data, judge.url, tmp_path / "out")
    run(data, judge.url, tmp_path / "out")
    assert judge.asked.total() == 13 and numbers(made)["made"] == 6


def test_the_key_is_in_no_file(data, judge, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("A_KEY", "sk-very-secret")
    made = run(data, judge.url, tmp_path / "out", {"key_variable": "A_KEY"})
    assert judge.headers[0]["Authorization"] == "Bearer sk-very-secret"
    assert not any(b"sk-very-secret" in path.read_bytes() for path in made.iterdir())
    assert "sk-very-secret" not in "".join(capfd.readouterr())


def test_answers_get_marks_and_answers_to_one_prompt_become_a_pair(judge, tmp_path):
    texts = ["bad", "quite good", "the very best"]
    (tmp_path / "answers.jsonl").write_text("\n".join(json.dumps({"prompt": "Hello?", "response": t}) for t in texts))

    def says(asked):
        answer = asked.split("<answer>\n")[1].split("\n</answer>")[0]
        return f"So.\n**Helpful:** {1 + texts.index(answer) * 2}\nSafe: 5"

    judge.says = says
    made = run(tmp_path / "answers.jsonl", judge.url, tmp_path / "out", margin=1.0)
    assert [(r["response"], r["helpful"], r["safe"]) for r in rows(made / "scores.jsonl")] == [
        ("bad", 1, 5), ("quite good", 3, 5), ("the very best", 5, 5),
    ]  # fmt: skip
    (pair,) = rows(made / "pairs.jsonl")
    assert (pair["chosen"], pair["rejected"], pair["margin"]) == ("the very best", "bad", 1.0)
    assert numbers(made)["marks"]["answer"]["helpful"]["value"] == 3


def test_neighbouring_answers_are_compared_where_a_preference_is_asked_for(judge, tmp_path):
    texts = ["one", "number two", "third", "th", "alone"]
    (tmp_path / "answers.jsonl").write_text("\n".join(json.dumps({"prompt": "Hello?", "response": t}) for t in texts))
    made = run(tmp_path / "answers.jsonl", judge.url, tmp_path / "out", ask="preference")
    assert [(r["chosen"], r["rejected"]) for r in rows(made / "pairs.jsonl")] == [
        ("number two", "one"),
        ("third", "th"),
    ]
    assert numbers(made)["left_out"] == {"no other answer to the prompt": 1}


def test_a_principle_is_drawn_for_each_prompt_and_asked(data, judge, tmp_path):
    (tmp_path / "mine.yaml").write_text("short: {critique: c, revise: r, choose: 'Which answer is shorter?'}")
    run(data, judge.url, tmp_path / "out", principles=str(tmp_path / "mine.yaml"))
    assert all("Which answer is shorter?" in asked for asked in judge.asked)


def test_a_function_judges_as_a_reward_does(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_judge.py").write_text("def shorter(prompt, response):\n    return -len(response)\n")
    made = run(data, "my_judge:shorter", tmp_path / "out", margin=3.0)
    found = rows(made / "pairs.jsonl")
    assert len(found) == 6 and all(len(row["chosen"]) < len(row["rejected"]) for row in found)
    assert max(row["margin"] for row in found) == 3.0 and min(row["margin"] for row in found) < 3.0


def test_a_local_model_is_asked_once_and_its_nonsense_is_counted(data, tmp_path, monkeypatch):
    save_policy(tiny_policy(), tmp_path / "model")
    settings = {"max_answer_tokens": 4, "model": ModelConfig(device="cpu")}
    for remembered in (0, 12):
        with pytest.raises(RunFailed, match="nothing was made"):
            run(data, str(tmp_path / "model"), tmp_path / "out", **settings)
        assert numbers(tmp_path / "out")["remembered"] == remembered
    assert numbers(tmp_path / "out")["left_out"] == {"an answer of the judge without a verdict": 6}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--judge", "http://127.0.0.1:1/v1"], "give the name of one as --endpoint.model"),
        (["--judge", "a:b", "--ask", "scores"], "a function gives one number"),
        (["--judge", "a:b", "--endpoint.model", "m"], "no server is asked"),
        (["--judge", "rule:ends"], "a rule compares with a ground truth"),
        (["--judge", "http://127.0.0.1:1/v1", "--endpoint.key_variable", "sk-1-2"], "and not the key itself"),
    ],
)
def test_bad_settings_are_refused(data, tmp_path, capsys, change, said):
    assert main(["judge", "--data", str(data), "--output", str(tmp_path / "out"), *change]) == 2
    assert said in capsys.readouterr().err


def test_a_folder_with_other_files_is_left_alone(data, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="holds other files"):
        run(data, "http://127.0.0.1:1/v1", tmp_path / "out")
    assert os.listdir(tmp_path / "out") == ["thesis.txt"]
