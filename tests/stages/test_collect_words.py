"""collect with a judge in words: a real local server, or a chat model, labels the pairs of a round."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

import concordant
from concordant.config.judging import EndpointConfig
from concordant.core.errors import RunFailed, RunStopped, UserError
from concordant.pipeline.fingerprint import fingerprint
from concordant.pipeline.runner import Record, _clear
from tests.feedback.server import Judge, chat, first_and_second, likes_longer, status
from tests.stages.test_collect import config, rows, world  # noqa: F401 (fixtures)

FAST = EndpointConfig(model="m", wait=0.0, retries=0, parallel=1, timeout=5.0)


@pytest.fixture
def judge():
    with Judge(likes_longer) as made:
        yield made


@pytest.fixture
def served(config, judge):  # noqa: F811
    return replace(config, judge=judge.url, endpoint=FAST)


def numbers(folder):
    return json.loads((folder / "judge.json").read_text())


def asked_pairs(folder):
    return [(row["a"], row["b"]) for row in rows(folder / "to_label.jsonl")]


def test_a_server_labels_the_pairs_in_both_orders(served, judge):
    folder = concordant.collect(served)
    pairs, asked = rows(folder / "pairs.jsonl"), asked_pairs(folder)
    orders = Counter(first_and_second(question) for question in judge.asked.elements())
    assert orders == Counter([*asked, *((b, a) for a, b in asked)])
    assert pairs and all(len(row["chosen"]) > len(row["rejected"]) for row in pairs)
    assert {(row["round"], row["judge"]) for row in pairs} == {(1, f"{judge.url} m")}
    ties = sum(len(a) == len(b) for a, b in asked)
    found = numbers(folder)
    assert found["made"] == len(pairs) == 6 - ties and found["left_out"] == ({"a tie": ties} if ties else {})
    assert (found["asked"], found["requests"], found["prompt_tokens"], found["answer_tokens"]) == (12, 12, 84, 36)
    assert found["trust"]["first_place"]["value"] == 0.5 and found["trust"]["flips"]["value"] == 0
    assert "agreement" not in found["trust"]  # new pairs have no label to agree with
    card = json.loads((folder / "card.json").read_text())
    assert any("changed with the order" in note for note in card["notes"])


def test_a_judge_of_places_is_found_out_and_its_pairs_are_counted_or_kept_as_ties(config, tmp_path):  # noqa: F811
    def says(question):  # the first place, unless the pair is the first one
        first, second = sorted(first_and_second(question))
        says.known = says.known or (first, second)
        return likes_longer(question) if (first, second) == says.known else "Better: first"

    says.known = None
    with Judge(says) as judge:
        served = replace(config, judge=judge.url, endpoint=FAST, pairs=4)
        one = concordant.collect(served)
        kept = concordant.collect(replace(served, output=str(tmp_path / "kept"), keep_ties=True))
    assert numbers(one)["left_out"]["each order preferred the same place"] == 3
    assert [row.get("probability") for row in rows(kept / "pairs.jsonl")].count(0.5) >= 3
    assert numbers(kept)["made"] == 4


def test_a_budget_or_a_fault_loses_nothing_and_the_same_command_asks_for_the_rest(served, judge):
    """Five requests are paid for, the next command finds the server down, and the third asks what is missing."""
    once = replace(served, resume="auto")
    with pytest.raises(RunStopped, match="the budget is used up; 4 of 6 pairs have no verdict.*asks for the rest"):
        concordant.collect(replace(once, endpoint=replace(FAST, max_calls=5)))
    judge.deeds = [status(503)] * 9
    with pytest.raises(RunStopped, match="the server does not answer; 4 of 6"):
        concordant.collect(once)
    assert numbers(Path(served.output))["left_out"]
    judge.deeds = []
    folder = concordant.collect(once)
    assert numbers(folder)["remembered"] == 5 and numbers(folder)["asked"] == 7
    assert sum(card for card in numbers(folder)["left_out"].values()) + numbers(folder)["made"] == 6


def test_what_a_stopped_judge_left_can_be_skipped_and_is_counted(served):
    folder = concordant.collect(replace(served, unlabelled="skip", endpoint=replace(FAST, max_calls=6)))
    left_out = numbers(folder)["left_out"]
    assert left_out["the budget is used up"] == 3
    assert json.loads((folder / "card.json").read_text())["dropped"] == left_out


def test_nonsense_and_refused_questions_are_counted(served, judge):
    judge.deeds = [status(400, "no"), status(200, "nonsense"), status(200, chat("Who knows?"))]
    folder = concordant.collect(served)
    assert (
        numbers(folder)["left_out"].items()
        >= {
            "the server refuses the question": 1,
            "an answer of the judge without a verdict": 1,
        }.items()
    )
    judge.says = lambda question: "I cannot say."
    with pytest.raises(RunFailed, match="gave no verdict on any of 6 pairs: an answer of the judge without a verdict"):
        concordant.collect(replace(served, output=f"{served.output}2"))


def test_a_wrong_key_ends_the_command_and_the_sampled_answers_are_kept(served, judge):
    judge.deeds = [status(401, "bad key")]
    with pytest.raises(UserError, match="answered 401"):
        concordant.collect(served)
    before = rows(f"{served.output}/samples.jsonl")
    assert rows(concordant.collect(replace(served, resume="auto")) / "samples.jsonl") == before


def test_a_chat_model_is_asked_and_a_reward_model_scores(config, world):  # noqa: F811
    """The untrained chat model gives no verdict; that it was asked stands in the file of its answers."""
    chat_model = replace(config, judge=str(world / "policy"), max_answer_tokens=4, pairs=2)
    with pytest.raises(RunFailed, match="gave no verdict on any of 2 pairs: an answer of the judge without a verdict"):
        concordant.collect(chat_model)
    assert len(rows(f"{config.output}/asked.jsonl")) == 4


def test_a_principle_is_drawn_for_each_prompt(served, judge, tmp_path):
    (tmp_path / "mine.yaml").write_text("short: {critique: c, revise: r, choose: 'Which answer is shorter?'}")
    concordant.collect(replace(served, principles=str(tmp_path / "mine.yaml"), pairs=2))
    assert judge.asked and all("Which answer is shorter?" in question for question in judge.asked)


def test_a_pipeline_goes_on_with_another_budget_and_never_removes_the_answers_of_a_judge(tmp_path):
    """Else the stage would begin again, and every answer would be paid for twice."""
    values = {"judge": "http://h/v1", "endpoint.model": "m", "endpoint.max_calls": 5, "output": "o"}
    before = fingerprint("collect", values, {})
    assert fingerprint("collect", values | {"endpoint.max_calls": 9, "endpoint.key_variable": "K"}, {}) == before
    assert fingerprint("collect", values | {"endpoint.model": "other"}, {}) != before
    for name in ("asked.jsonl", "pairs.jsonl", "stage.json"):
        (tmp_path / name).write_text("{}")
    _clear(tmp_path, Record(fingerprint="", verb="judge", done=False))
    _clear(tmp_path, None)  # a kill after the record was removed
    assert [path.name for path in tmp_path.iterdir() if path.name != ".lock"] == ["asked.jsonl"]
