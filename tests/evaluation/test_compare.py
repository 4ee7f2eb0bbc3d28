from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from concordant.core.errors import UserError
from concordant.data.records import Message
from concordant.evaluation.compare import evaluate_policies
from concordant.evaluation.records import PolicyAnswers

Answers = Callable[..., PolicyAnswers]


def test_numbers_by_hand(answers: Answers) -> None:
    sft = answers("sft", gold=[0.2, 0.4, 0.6, 0.8], rewards=[0.0, 2.0, 0.0, 2.0], perplexity=6.0)
    ppo = answers("ppo", gold=[0.4, 0.4, 0.5, 1.0], rewards=[2.0, 3.0, 2.0, 3.0], kl=3.5)
    found = evaluate_policies([sft, ppo], "sft", bootstrap=200, seed=0)
    scores = found.policies["ppo"]
    assert found.decided_by == "gold"
    assert scores.win_rate == (1 + 0.5 + 0 + 1) / 4
    assert scores.win_interval is not None and scores.win_interval.low < 0.625 < scores.win_interval.high
    assert scores.gold_mean == pytest.approx(0.575)
    assert (scores.reward_mean, scores.reward_std) == (2.5, 0.5)
    assert (scores.kl, scores.perplexity, scores.judge_mean) == (3.5, None, None)
    assert (scores.length_mean, scores.eos_fraction) == (2.5, 0.75)
    assert scores.gain is not None and scores.gain.mean == pytest.approx(0.075)
    assert found.ranking() == ["ppo", "sft"]


def test_each_mean_is_of_its_own_column_and_each_share_of_its_own_length(answers: Answers) -> None:
    """Words: x y z w x y z w, a b; six of ten differ. Pairs of neighbours: five of eight differ."""
    said = ["x y z w x y z w", "a b"]
    one = answers("sft", responses=said, gold=[0.5, 0.7], judge=[1.0, 1.5], rewards=[2.0, 5.0])
    scores = evaluate_policies([one], "sft", 0, 0).policies["sft"]
    assert (scores.gold_mean, scores.judge_mean, scores.reward_mean, scores.reward_std) == (0.6, 1.25, 3.5, 1.5)
    assert (scores.distinct_1, scores.distinct_2) == (6 / 10, 5 / 8)
    assert scores.repetition == pytest.approx(1 / 5), "of the answer that has four words: one run of five comes again"


def test_a_gain_is_measured_in_deviations_of_the_baseline(answers: Answers) -> None:
    """The baseline's answers spread by 2, the policy's by nothing: a gain of 3 is 1.5 deviations."""
    sft, ppo = answers("sft", gold=[-2.0, 2.0]), answers("ppo", gold=[3.0, 3.0])
    gain = evaluate_policies([sft, ppo], "sft", 0, 0).policies["ppo"].gain
    assert gain is not None and (gain.mean, gain.deviations) == (3.0, 1.5)


def test_arrays_do_as_well_as_lists(answers: Answers) -> None:
    lists = [answers(n, gold=[0.2, g], rewards=[1.0, g], kl=1.5) for n, g in (("sft", 0.4), ("ppo", 0.8))]
    arrays = []
    for a in lists:
        columns: dict[str, Any] = {name: np.array(getattr(a, name)) for name in ("gold", "rewards", "lengths", "ended")}
        columns["kl"] = np.float32(1.5)
        arrays.append(replace(a, **columns))
    assert evaluate_policies(arrays, "sft", 20, 0).policies == evaluate_policies(lists, "sft", 20, 0).policies


def test_a_policy_like_the_baseline_wins_exactly_half(answers: Answers) -> None:
    gold = list(np.random.default_rng(0).random(37))
    found = evaluate_policies([answers("sft", gold=gold), answers("copy", gold=gold)], "sft", 500, 0)
    for name in ("sft", "copy"):
        scores = found.policies[name]
        assert scores.win_rate == 0.5
        assert scores.win_interval is not None
        assert (scores.win_interval.low, scores.win_interval.high) == (0.5, 0.5)


def test_wins_are_decided_by_gold_then_judge_then_proxy(answers: Answers) -> None:
    up, down = [1.0, 1.0], [0.0, 0.0]
    base = answers("sft", gold=down, judge=up, rewards=up)
    other = answers("ppo", gold=up, judge=down, rewards=down)
    by_gold = evaluate_policies([base, other], "sft", 0, 0)
    assert (by_gold.decided_by, by_gold.policies["ppo"].win_rate) == ("gold", 1.0)
    by_judge = evaluate_policies([base, replace(other, gold=None)], "sft", 0, 0)  # gold must have scored everybody
    assert (by_judge.decided_by, by_judge.policies["ppo"].win_rate) == ("judge", 0.0)
    proxy_only = [replace(a, gold=None, judge=None) for a in (base, other)]
    assert evaluate_policies(proxy_only, "sft", 0, 0).decided_by == "reward"
    nothing = evaluate_policies([replace(a, rewards=None) for a in proxy_only], "sft", 0, 0)
    assert nothing.decided_by is None and nothing.policies["ppo"].win_rate is None and nothing.ranking() == []


def test_half_of_the_gain_survives(answers: Answers) -> None:
    # sd of the baseline: 1 by the proxy, 0.1 by gold. Gains: 2 sd by the proxy, 1 sd by gold.
    sft = answers("sft", rewards=[-1.0, 1.0] * 20, gold=[0.4, 0.6] * 20)
    ppo = answers("ppo", rewards=[1.0, 3.0] * 20, gold=[0.5, 0.7] * 20)
    survival = evaluate_policies([sft, ppo], "sft", 300, 0).survival["ppo"]["gold"]
    assert (survival.proxy.deviations, survival.other.deviations) == (pytest.approx(2.0), pytest.approx(1.0))
    assert survival.ratio == pytest.approx(0.5)
    assert survival.interval is not None
    assert survival.interval.low == pytest.approx(0.5) and survival.interval.high == pytest.approx(0.5)


def test_survival_does_not_depend_on_the_scorers_units(answers: Answers) -> None:
    stream = np.random.default_rng(0)
    base, gold = stream.normal(size=60), stream.normal(size=60)
    sft = answers("sft", rewards=list(base), gold=list(gold))
    ppo = answers("ppo", rewards=list(base + 1 + stream.normal(size=60) / 3), gold=list(gold + stream.random(60)))

    def scaled(a: PolicyAnswers) -> PolicyAnswers:
        assert a.rewards is not None
        return replace(a, rewards=[7 * r - 100 for r in a.rewards])

    one = evaluate_policies([sft, ppo], "sft", 200, 0).survival["ppo"]["gold"]
    other = evaluate_policies([scaled(sft), scaled(ppo)], "sft", 200, 0).survival["ppo"]["gold"]
    assert one.ratio is not None and one.interval is not None and other.interval is not None
    assert one.ratio == pytest.approx(other.ratio)
    assert (one.interval.low, one.interval.high) == pytest.approx((other.interval.low, other.interval.high))
    assert one.interval.low < one.ratio < one.interval.high


def test_no_ratio_where_the_proxy_gained_nothing(answers: Answers) -> None:
    stream = np.random.default_rng(0)
    noise = [answers(n, rewards=list(stream.normal(size=40)), gold=list(stream.random(40))) for n in ("sft", "ppo")]
    assert evaluate_policies(noise, "sft", 200, 0).survival["ppo"]["gold"].ratio is None
    flat = [answers("sft", rewards=[1.0] * 4, gold=[0.5] * 4), answers("ppo", rewards=[2.0] * 4, gold=[0.6] * 4)]
    found = evaluate_policies(flat, "sft", 200, 0).survival["ppo"]["gold"]
    assert found.ratio is None and found.proxy.deviations is None


def test_lead_over_the_second_best(answers: Answers) -> None:
    policies = [answers(n, gold=[g, g + 0.1]) for n, g in (("sft", 0.1), ("ppo", 0.5), ("dpo", 0.7))]
    found = evaluate_policies(policies, "sft", 50, 0)
    assert found.lead is not None and found.lead.mean == pytest.approx(0.2)


def test_wrong_use_names_the_cause(answers: Answers) -> None:
    sft, ppo = answers("sft", gold=[0.5, 0.5]), answers("ppo", gold=[0.5, 0.6])
    with pytest.raises(UserError, match=r'unknown baseline policy "stf"\. Did you mean "sft"\?'):
        evaluate_policies([sft, ppo], "stf", 10, 0)
    with pytest.raises(UserError, match='two policies have the name "sft"'):
        evaluate_policies([sft, sft], "sft", 10, 0)
    with pytest.raises(UserError, match="no policy to evaluate"):
        evaluate_policies([], "sft", 10, 0)
    with pytest.raises(UserError, match="no held-out prompts"):
        evaluate_policies([answers("sft")], "sft", 10, 0)


def test_scores_that_mean_nothing_are_refused(answers: Answers) -> None:
    sft, ppo = answers("sft", gold=[0.5, 0.5]), answers("ppo", gold=[0.5, 0.6])
    other = [(Message("user", "question 1"),), (Message("user", "question 0"),)]
    with pytest.raises(ValueError, match="same prompts in the same order"):
        evaluate_policies([sft, replace(ppo, prompts=other)], "sft", 10, 0)
    with pytest.raises(ValueError, match="ppo: 1 gold for 2 prompts"):
        evaluate_policies([sft, replace(ppo, gold=[0.5])], "sft", 10, 0)
    with pytest.raises(ValueError, match="ppo: the gold score of prompt 1 is not finite"):
        evaluate_policies([sft, replace(ppo, gold=[0.5, math.nan])], "sft", 10, 0)
