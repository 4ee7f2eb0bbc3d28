"""Ratings on the page, in report.json and as a picture."""

from __future__ import annotations

import json

import pytest

from concordant.evaluation.compare import evaluate_policies
from concordant.evaluation.records import Interval, Rating
from concordant.report.plot_style import LIGHT
from concordant.report.ratings import rating_text, ratings_blocks, ratings_picture
from concordant.report.write import report_numbers


@pytest.fixture
def evaluated(answers):
    gold = {"sft": [0.1] * 10, "round1": [0.5] * 8 + [0.0] * 2, "round2": [0.9] * 9 + [0.0]}
    return evaluate_policies([answers(name, gold=scores) for name, scores in gold.items()], "sft", 200, 0)


def test_the_best_policy_stands_first_and_the_row_wins_against_the_column(evaluated):
    _, what, table = ratings_blocks(evaluated)
    assert "decided by gold" in what.text and "sft has 0" in what.text
    assert table.header == ("policy", "rating", "against round2", "against round1", "against sft")
    assert [row[0] for row in table.rows] == ["round2", "round1", "sft"]
    first = table.rows[0]
    assert first[2] == "–" and first[4].startswith("90 %") and table.rows[2][2].startswith("10 %")
    assert first[1].split(" ")[0].isdigit() and first[1].endswith("]") and table.rows[2][1] == "0"


def test_report_json_has_ratings_and_the_win_matrix(evaluated):
    numbers = json.loads(json.dumps(report_numbers(evaluated, None), allow_nan=False))["ratings"]
    assert list(numbers) == ["sft", "round1", "round2"]
    assert numbers["round1"]["rating_low"] < numbers["round1"]["rating"] < numbers["round1"]["rating_high"]
    assert numbers["round2"]["against"]["sft"]["win_rate"] == pytest.approx(0.9)
    # Two zeros of round1 meet one zero of round2: one tie, and round2 wins the other nine.
    assert numbers["round2"]["against"]["round1"]["win_rate"] == pytest.approx(0.95)
    assert numbers["round1"]["against"]["round2"]["win_rate"] == pytest.approx(0.05)


def test_a_picture_is_drawn(evaluated):
    assert ratings_picture(evaluated, LIGHT).startswith(b"\x89PNG")


@pytest.mark.parametrize("names", [("sft", "ppo"), ("sft", "dpo", "ppo")])
def test_two_policies_and_policies_without_a_score_have_no_ratings(answers, names):
    responses = [f"answer {i}" for i in range(4)]
    gold = [0.1, 0.2, 0.3, 0.4] if len(names) == 2 else None
    found = evaluate_policies([answers(name, gold=gold, responses=responses) for name in names], "sft", 0, 0)
    assert found.ratings is None and ratings_blocks(found) == [] and ratings_picture(found, LIGHT) is None
    assert report_numbers(found, None)["ratings"] is None


@pytest.mark.parametrize(
    ("rating", "text"),
    [
        (Rating(112.4, Interval(86.2, 139.6)), "112 [86, 140]"),
        (Rating(-3.0, None), "−3"),
        (Rating(0.0, Interval(0.0, 0.0)), "0"),
    ],
)
def test_ratings_are_whole_points(rating, text):
    assert rating_text(rating) == text
