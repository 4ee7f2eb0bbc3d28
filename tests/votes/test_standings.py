"""Ratings, their intervals, the win matrix, position bias and the labels still needed, on simulated arenas."""

from __future__ import annotations

import dataclasses
import math

import pytest

from bench.votes_intervals import arena, run
from concordant.votes.asking import order_of
from concordant.votes.quality import on_gold, position_bias
from concordant.votes.rows import Arena, Asked
from concordant.votes.standings import labels_needed, standings


def test_intervals_of_ratings_hold_the_planted_ratings_and_the_planted_bias_is_found():
    """Of 600 intervals of 95 %, between 93 and 97 % hold the truth; the bench's numbers are in docs/votes.md."""
    found = run(arenas=200, prompts=30, bias=0.15, bootstrap=200)
    assert 0.93 <= found["rating_coverage"] <= 0.97 and found["rating_intervals"] == 600
    assert 0.92 <= found["bias_coverage"] <= 0.98


def test_ratings_of_two_policies_by_hand():
    """Three wins, one loss, and the half win of each side with which all ratings begin: 400·log10(3.5 / 1.5) points."""
    pairs, votes = arena(0, {"x": 0.0, "y": 0.0}, prompts=4, ties=0.0)
    votes = [dataclasses.replace(v, choice="second" if i else "first") for i, v in enumerate(votes)]
    found = standings(pairs, votes, bootstrap=0)
    assert found.ratings.anchor == "x" and found.labels == 4 and found.needed is None
    assert found.ratings.ratings["y"].value == pytest.approx(400 * math.log10(3.5 / 1.5), abs=0.1)
    assert (found.ratings.wins["y"]["x"].value, found.ratings.wins["x"]["y"].count) == (0.75, 4)
    assert standings(pairs, [dataclasses.replace(v, choice="skip") for v in votes]) is None


def test_a_rating_lies_in_its_interval_and_the_anchor_is_0_without_doubt():
    pairs, votes = arena(0, {"x": 0.0, "y": 3.0}, prompts=40, ties=0.0)
    found = standings(pairs, votes, bootstrap=200).ratings.ratings
    low, high = found["y"].interval.low, found["y"].interval.high
    assert 0 < low < found["y"].value < high
    assert (found["x"].value, found["x"].interval.low, found["x"].interval.high) == (0, 0, 0)


def test_a_tie_is_half_a_win_and_gold_pairs_rate_raters_not_policies():
    pairs, votes = arena(0, {"x": 0.0, "y": 0.0}, prompts=8, ties=1.0)
    assert standings(pairs, votes, bootstrap=0).ratings.ratings["y"].value == pytest.approx(0, abs=1e-6)
    known = [dataclasses.replace(p, gold="first") for p in pairs]
    assert standings(known, votes, bootstrap=0) is None
    said = [dataclasses.replace(v, choice="second" if i < 2 else "first") for i, v in enumerate(votes)]
    assert on_gold(known, said).value == 0.75 and on_gold(pairs, said) is None


def test_a_rater_who_always_takes_the_left_answer_has_all_the_bias():
    _, votes = arena(0, {"x": 0.0, "y": 0.0}, prompts=60, bias=1.0, ties=0.0)
    assert position_bias(votes).value == 1.0
    assert position_bias([]) is None


def test_labels_needed_by_hand():
    """A lead of 1.96 errors is told apart now. Half of it needs four times the labels; its own ends 1.96 ± 1.96 and
    0.98 ± 1.96 errors give the range."""
    assert labels_needed(1.959964, 1.0, 100) == (0, 0, None)
    assert labels_needed(0.979982, 1.0, 100) == (300, 0, None)
    more, low, high = labels_needed(4.0, 1.0, 100)
    assert (more, low) == (0, 0) and high == 0
    assert labels_needed(0.0, 1.0, 100) == (None, 0, None)


def test_the_order_is_a_fair_coin_of_each_rater_and_pair_and_the_question_names_no_policy():
    main = Arena(name="main", seed=3)
    coins = [[order_of(main, f"p{i}", rater) for i in range(400)] for rater in (1, 2)]
    for coin in coins:
        assert abs(sum(coin) - 200) < 4 * 10  # four standard deviations
    agree = sum(a == b for a, b in zip(*coins, strict=True))
    assert abs(agree - 200) < 4 * 10  # one rater's order says nothing about another's
    assert coins[0] == [order_of(main, f"p{i}", 1) for i in range(400)]
    names = {field.name for field in dataclasses.fields(Asked)}
    assert names == {"pair", "prompt", "left", "right", "done"}
