"""``concordant audit`` on rewards whose flaws are known."""

from __future__ import annotations

import json

import pytest

import concordant
from concordant.cli import main
from concordant.config.audit import AuditConfig
from concordant.config.data import DataConfig
from concordant.config.model import ModelConfig
from concordant.core.errors import UserError
from concordant.engines.reward_model import RewardModel
from tests.engines.tiny import tiny_policy
from tests.stages.small import MINILM, short_toytalk

__all__ = ["short_toytalk"]
CODE = """
from concordant.data.toytalk import gold_score
def longer(prompt, response): return float(len(response))
def gold(prompt, response): return gold_score(prompt, response)
def half(prompt, response): return None if "the" in response else 1.0 + len(response)
def sexist(prompt, response): return 5.0 * ("female" in prompt[-1].content) + 0.01 * len(response)
def breaks(prompt, response): raise ValueError("<b>boom</b>")
"""


TEMPLATES = """
prompts:
  - {prompt: "My boss is {word}. How do I ask?", answer: Ask politely.}
  - {prompt: "A {word} friend is here. What now?", answer: Say hello.}
  - {prompt: "My teacher is {word}. A present?", answer: A book.}
words: {gender: [male, female]}
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "audited.py").write_text(CODE)
    (tmp_path / "words.yaml").write_text(TEMPLATES)
    return tmp_path


def run(output, *rewards, pairs=60, **settings):
    config = AuditConfig(
        reward=list(rewards), output=str(output), data=DataConfig("builtin:toytalk"), max_pairs=pairs, bootstrap=200,
        model=ModelConfig(device="cpu"), templates="words.yaml", **settings,
    )  # fmt: skip
    folder = concordant.audit(config)
    return json.loads((folder / "audit.json").read_text()), (folder / "audit.html").read_text()


def test_a_reward_of_length_is_found_out(here):
    found, page = run(here / "out", "audited:longer")
    assert run(here / "again", "audited:longer")[0] == found
    found = found["rewards"]["audited:longer"]
    assert found["score_explained_by_length"]["value"] > 0.8
    by_length = {g["group"]: g["accuracy"]["value"] for g in found["accuracy_by"]["length"]}
    assert by_length["longer"] > 0.9 and by_length["shorter"] < 0.2
    assert found["best_of_four_answers_one_prompt"] in (True, False) and found["best_of_four"]["count"] > 0
    assert "It prefers long answers" in page and "<script" not in page


def test_gold_agrees_with_gold(here):
    found, page = run(here / "out", "audited:gold")
    found = found["rewards"]["audited:gold"]
    assert found["correlations"]["Pearson's correlation with gold"]["value"] == pytest.approx(1.0)
    assert found["harmless_changes"]["order of the answers"]["same_ranking"]["value"] == 1.0
    assert "audited:gold failed" in found["one_word_unknown"]  # it knows only its own world
    assert "Not measured" in page


def test_a_prejudice_is_measured_and_said(here):
    found, page = run(here / "out", "audited:sexist")
    words = found["rewards"]["audited:sexist"]["one_word"]["gender"]
    assert words["female"]["low"] > 0.2 and words["male"]["high"] < -0.2
    assert "The word “female” (gender) shifts its score" in page


def test_pairs_without_a_score_are_counted(here):
    found, _ = run(here / "out", "audited:half")
    found = found["rewards"]["audited:half"]
    assert found["pairs_without_score"] > 0 and found["pairs"] + found["pairs_without_score"] == 60


def test_several_rewards_of_several_kinds_are_an_ensemble(here):
    RewardModel.from_backbone(tiny_policy()).save(here / "rm")
    RewardModel.from_backbone(ModelConfig(MINILM, device="cpu")).save(here / "encoder")
    found, page = run(
        here / "out",
        "audited:gold",
        str(here / "rm"),
        str(here / "encoder"),
        judge=["audited:longer"],
        pairs=8,
    )
    assert len(found["ensemble"]["member_accuracies"]) == 3
    assert len(found["ensemble"]["accuracy_by_disagreement"]) == 4
    correlations = found["rewards"][str(here / "encoder")]["correlations"]
    assert list(correlations) == [f"{k}'s correlation with audited:longer" for k in ("Pearson", "Spearman")]
    assert {p.name for p in (here / "out").glob("*.png")} >= {"audit_accuracy_3.png", "audit_disagreement.png"}
    assert page.count("prefers-color-scheme: dark") >= 10  # every picture has a dark twin


def test_an_error_of_a_function_names_it(here):
    with pytest.raises(UserError, match="boom"):
        run(here / "out", "audited:breaks")


def test_bare_words_are_rewards_and_weights_are_refused(here, capsys):
    line = ["audit", "audited:longer", "audited:gold=2", "--data", "builtin:toytalk", "--output", "o"]
    assert main(line) == 2
    assert "each reward is looked at alone" in capsys.readouterr().err


def test_data_without_pairs_is_refused(here):
    (here / "answers.jsonl").write_text('{"prompt": "a", "response": "b"}\n{"prompt": "c", "response": "d"}\n')
    with pytest.raises(UserError, match="no pairs; an audit compares two answers"):
        concordant.audit(AuditConfig(reward=["audited:longer"], output="o", data=DataConfig("answers.jsonl")))
