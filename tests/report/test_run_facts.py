"""The facts of the runs in the report: what was trained on what, with what, when, and which step it is."""

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from concordant.report.blocks import Card
from concordant.report.run_facts import Source, facts_blocks, links_from
from concordant.runs.facts import RunFacts

SETTINGS = {
    "verb": "ppo", "model.name": "runs/sft/model", "data.path": "pairs.jsonl", "data.test_fraction": 0.25,
    "data.test_path": "", "seed": 3, "train.learning_rate": 0.0005, "train.max_steps": 56, "train.epochs": 2.0,
    "train.batch_size": 16, "beta": 0.1, "reward": ["runs/rm/model", "rule:ends=0.5"], "model.lora.rank": 0,
    "kl.coefficient": 0.12,
}  # fmt: skip
RESULT = {
    "exported_step": 42, "steps": 56, "total_steps": 56, "metric": "eval/objective", "best_step": 42,
    "data": "972 records, 430 held out", "data_hash": "0123456789abcdef", "environment": {"concordant": "0.1.0 abc"},
}  # fmt: skip
RUN = RunFacts(folder=Path("runs/ppo"), settings=SETTINGS, result=RESULT, started="2026-11-28T14:29:41+00:00")


def card(run=RUN, **changes):
    _, found = facts_blocks([], [Source("ppo", "runs/ppo/model", replace(run, **changes), 1_465_728)], Path("report"))
    assert isinstance(found, Card)
    return dict(found.facts)


def test_every_fact_has_its_name():
    assert card() == {
        "model": "runs/ppo/model",
        "made by": "concordant ppo",
        "base model": "runs/sft/model",
        "data": "pairs.jsonl; 972 records, 430 held out; held out by prompt: 0.25; hash 0123456789ab",
        "settings": "beta 0.1, reward runs/rm/model + rule:ends=0.5, kl.coefficient 0.12, train.max_steps 56, "
        "train.batch_size 16, train.learning_rate 0.0005",
        "date": "2026-11-28 14:29:41 UTC",
        "exported step": "42 of 56, the best by eval/objective",
        "seed": "3",
        "version": "concordant 0.1.0 abc",
        "weights": "1,465,728",
    }


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"exported_step": 56, "best_step": 56}, "56 of 56, the best by eval/objective, which is the last"),
        ({"exported_step": 56}, "56 of 56, the last; the best by eval/objective was step 42"),
        ({"exported_step": 56, "best_step": None}, "56 of 56, the last: there was no held-out data to choose by"),
        ({"exported_step": 20, "best_step": 20, "steps": 30}, "20 of 56, the best by eval/objective"),
        ({"exported_step": None}, "not recorded"),
    ],
)
def test_the_exported_step_says_why(changes, said):
    assert card(result=RESULT | changes)["exported step"] == said


def test_what_a_run_forgot_is_told_as_perplexity():
    settings = SETTINGS | {"retain.text": "wiki.txt", "retain.mix": 0.5}
    told = card(settings=settings, retained=(math.log(12.5), math.log(14.0)))
    assert told["what must not be forgotten"] == "perplexity of wiki.txt: 12.5 before, 14 after"
    assert "retain.mix 0.5" in told["settings"]


def test_a_run_of_an_earlier_version_says_what_is_known():
    assert card(settings={}, result={}, started="") == {
        "model": "runs/ppo/model", "exported step": "not recorded", "weights": "1,465,728",
    }  # fmt: skip


def test_a_model_without_a_run_has_its_place_alone():
    (_, found) = facts_blocks([], [Source("other", "org/model", None, None)], Path("report"))
    assert found == Card("other", (("model", "org/model"),), ())
    assert facts_blocks([], [], Path("report")) == []


def test_links_are_relative_paths_and_nothing_else(tmp_path):
    strange = tmp_path / "javascript:alert(1)" / "a](b) 100%?#é"
    (strange / "model").mkdir(parents=True)
    (strange / "config.yaml").write_text("")
    links = links_from(tmp_path / "report", [strange / "config.yaml", strange / "model"])
    assert [link.text for link in links] == ["config.yaml", "model/"]
    assert all(re.fullmatch(r"\.\./[\w./%-]+", link.target) for link in links)
    assert links[0].target == "../javascript%3Aalert%281%29/a%5D%28b%29%20100%25%3F%23%C3%A9/config.yaml"
