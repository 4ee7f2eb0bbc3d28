"""Who is shown to be better: several comparisons, few prompts, and intervals that hold zero."""

from __future__ import annotations

import numpy as np
import pytest

from concordant.evaluation.bootstrap import expanded, mean_interval
from concordant.evaluation.verdict import fewest_prompts, verdict_on

STREAM = np.random.default_rng(0)
BASE = STREAM.random(60)


def scores(**gains):
    """Scores of policies that gain so much on every prompt, with noise of 0.1."""
    return {name: BASE + gain + 0.1 * STREAM.normal(size=60) for name, gain in gains.items()}


def test_one_policy_has_no_rival():
    assert verdict_on(scores(sft=0), 100, 0) is None


def test_every_pair_is_compared_once_the_better_one_first():
    found = verdict_on(scores(sft=0, dpo=0.5, ppo=1), 500, 0)
    assert [(c.first, c.second, c.is_shown) for c in found.comparisons] == [
        ("ppo", "dpo", True), ("ppo", "sft", True), ("dpo", "sft", True),
    ]  # fmt: skip
    assert found.between("sft", "ppo").difference.value == pytest.approx(1, abs=0.05)


def test_intervals_are_wider_the_more_comparisons_there_are():
    given = scores(sft=0, dpo=0.05, ppo=0.1, base=-0.1)
    two, four = verdict_on({n: given[n] for n in ("sft", "dpo")}, 2000, 0), verdict_on(given, 2000, 0)
    assert (two.level, four.level) == (0.95, pytest.approx(1 - 0.05 / 6))
    narrow, wide = two.between("sft", "dpo").difference, four.between("sft", "dpo").difference
    assert narrow.value == wide.value and narrow.interval == mean_interval(
        given["dpo"] - given["sft"], 2000, 0, expanded(0.95, 60)
    )
    assert wide.interval.low < narrow.interval.low < narrow.interval.high < wide.interval.high


def test_few_prompts_show_nothing_even_if_all_agree():
    # 2^(1-6) = 0.031 is at most 0.05, and 2^(1-5) = 0.0625 is not; of six pairs each needs 0.0083, which is 2^(1-8)
    assert (fewest_prompts(1), fewest_prompts(6)) == (6, 8)
    for prompts, is_shown in ((5, False), (6, True)):
        pair = {"sft": np.zeros(prompts), "ppo": np.ones(prompts)}
        assert verdict_on(pair, 100, 0).comparisons[0].is_shown == is_shown


def test_without_resamples_nothing_is_shown():
    (only,) = verdict_on(scores(sft=0, ppo=5), 0, 0).comparisons
    assert only.difference.interval is None and not only.is_shown


def test_equal_scores_show_nothing():
    (only,) = verdict_on({"sft": BASE, "ppo": BASE.copy()}, 100, 0).comparisons
    assert only.difference.value == 0 and not only.is_shown


def test_a_comparison_can_be_seen_from_either_side():
    (only,) = verdict_on(scores(sft=0, ppo=1), 100, 0).comparisons
    mine, theirs = only.seen_from("ppo"), only.seen_from("sft")
    assert mine is only.difference and theirs.value == -mine.value
    assert (theirs.interval.low, theirs.interval.high) == (-mine.interval.high, -mine.interval.low)
