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
from concordant.evaluation.records import Evaluation, PolicyAnswers, TextLosses

Answers = Callable[..., PolicyAnswers]


def win_of(found: Evaluation) -> float:
    win = found.policies["ppo"].win
    assert win is not None
    return win.value


def test_numbers_by_hand(answers: Answers) -> None:
    sft = answers("sft", gold=[0.2, 0.4, 0.6, 0.8], rewards=[0.0, 2.0, 0.0, 2.0], texts=TextLosses([3.0, 5.0], [2, 6]))
    ppo = answers("ppo", gold=[0.4, 0.4, 0.5, 1.0], rewards=[2.0, 3.0, 2.0, 3.0], kl=[3.0, 4.0, 5.0, 2.0])
    found = evaluate_policies([sft, ppo], "sft", bootstrap=200, seed=0)
    scores = found.policies["ppo"]
    assert found.decided_by == "gold"
    win, perplexity = scores.win, found.policies["sft"].perplexity
    assert win is not None and win.value == (1 + 0.5 + 0 + 1) / 4
    assert win.interval is not None and win.interval.low < 0.625 < win.interval.high
    assert scores.gold is not None and scores.gold.value == pytest.approx(0.575)
    # deviations from 0.575: 0.175, 0.175, 0.075, 0.425; the sum of squares 0.2475 over 3, its root over √4
    assert scores.gold.error == pytest.approx(math.sqrt(0.2475 / 3) / 2)
    assert scores.reward is not None and (scores.reward.value, scores.reward_std) == (2.5, 0.5)
    assert scores.kl is not None and (scores.kl.value, scores.kl.count) == (3.5, 4)
    assert (scores.perplexity, scores.judge, scores.kl_bound) == (None, None, None)
    assert perplexity is not None and (perplexity.value, perplexity.count) == (pytest.approx(math.exp(8 / 8)), 2)
    assert (scores.length.value, scores.ends.value) == (2.5, 0.75)
    assert scores.gain is not None and scores.gain.mean.value == pytest.approx(0.075)
    assert found.ranking() == ["ppo", "sft"]


def test_each_mean_is_of_its_own_column_and_each_share_of_its_own_length(answers: Answers) -> None:
    """Words: x y z w x y z w, a b; six of ten differ. Pairs of neighbours: five of eight differ."""
    said = ["x y z w x y z w", "a b"]
    one = answers("sft", responses=said, gold=[0.5, 0.7], judge=[1.0, 1.5], rewards=[2.0, 5.0])
    scores = evaluate_policies([one], "sft", 0, 0).policies["sft"]
    means = [mean and mean.value for mean in (scores.gold, scores.judge, scores.reward)]
    assert means == pytest.approx([0.6, 1.25, 3.5]) and scores.reward_std == 1.5
    assert (scores.distinct_1, scores.distinct_2) == (6 / 10, 5 / 8)
    assert scores.repetition is not None and scores.repetition.value == pytest.approx(1 / 5), (
        "of the answer that has four words: one run of five comes again"
    )


def test_a_gain_is_measured_in_deviations_of_the_baseline(answers: Answers) -> None:
    """The baseline's answers spread by 2, the policy's by nothing: a gain of 3 is 1.5 deviations."""
    sft, ppo = answers("sft", gold=[-2.0, 2.0]), answers("ppo", gold=[3.0, 3.0])
    gain = evaluate_policies([sft, ppo], "sft", 0, 0).policies["ppo"].gain
    assert gain is not None and gain.deviations is not None
    assert (gain.mean.value, gain.deviations.value) == (3.0, 1.5)


def test_arrays_do_as_well_as_lists(answers: Answers) -> None:
    lists = [answers(n, gold=[0.2, g], rewards=[1.0, g], kl=[1.5, 2.0]) for n, g in (("sft", 0.4), ("ppo", 0.8))]
    arrays = []
    for a in lists:
        names = ("gold", "rewards", "lengths", "ended", "kl")
        columns: dict[str, Any] = {name: np.array(getattr(a, name)) for name in names}
        arrays.append(replace(a, **columns))
    assert evaluate_policies(arrays, "sft", 20, 0).policies == evaluate_policies(lists, "sft", 20, 0).policies


def test_a_policy_like_the_baseline_wins_exactly_half(answers: Answers) -> None:
    gold = list(np.random.default_rng(0).random(37))
    found = evaluate_policies([answers("sft", gold=gold), answers("copy", gold=gold)], "sft", 500, 0)
    for name in ("sft", "copy"):
        win = found.policies[name].win
        assert win is not None and win.value == 0.5 and win.interval is not None
        assert (win.interval.low, win.interval.high) == (0.5, 0.5)


def test_wins_are_decided_by_gold_then_judge_then_proxy(answers: Answers) -> None:
    up, down = [1.0, 1.0], [0.0, 0.0]
    base = answers("sft", gold=down, judge=up, rewards=up)
    other = answers("ppo", gold=up, judge=down, rewards=down)
    by_gold = evaluate_policies([base, other], "sft", 0, 0)
    assert (by_gold.decided_by, win_of(by_gold)) == ("gold", 1.0)
    by_judge = evaluate_policies([base, replace(other, gold=None)], "sft", 0, 0)  # gold must have scored everybody
    assert (by_judge.decided_by, win_of(by_judge)) == ("judge", 0.0)
    proxy_only = [replace(a, gold=None, judge=None) for a in (base, other)]
    assert evaluate_policies(proxy_only, "sft", 0, 0).decided_by == "reward"
    nothing = evaluate_policies([replace(a, rewards=None) for a in proxy_only], "sft", 0, 0)
    assert nothing.decided_by is None and nothing.policies["ppo"].win is None and nothing.ranking() == []
    assert nothing.verdict is None


def test_half_of_the_gain_survives(answers: Answers) -> None:
    # sd of the baseline: 1 by the proxy, 0.1 by gold. Gains: 2 sd by the proxy, 1 sd by gold.
    sft = answers("sft", rewards=[-1.0, 1.0] * 20, gold=[0.4, 0.6] * 20)
    ppo = answers("ppo", rewards=[1.0, 3.0] * 20, gold=[0.5, 0.7] * 20)
    survival = evaluate_policies([sft, ppo], "sft", 300, 0).survival["ppo"]["gold"]
    proxy, other, ratio = survival.proxy.deviations, survival.other.deviations, survival.ratio
    assert proxy is not None and other is not None and ratio is not None and ratio.interval is not None
    assert (proxy.value, other.value, ratio.value) == (pytest.approx(2.0), pytest.approx(1.0), pytest.approx(0.5))
    assert ratio.interval.low == pytest.approx(0.5) and ratio.interval.high == pytest.approx(0.5)


def test_survival_does_not_depend_on_the_scorers_units(answers: Answers) -> None:
    stream = np.random.default_rng(0)
    base, gold = stream.normal(size=60), stream.normal(size=60)
    sft = answers("sft", rewards=list(base), gold=list(gold))
    ppo = answers("ppo", rewards=list(base + 1 + stream.normal(size=60) / 3), gold=list(gold + stream.random(60)))

    def scaled(a: PolicyAnswers) -> PolicyAnswers:
        assert a.rewards is not None
        return replace(a, rewards=[7 * r - 100 for r in a.rewards])

    one = evaluate_policies([sft, ppo], "sft", 200, 0).survival["ppo"]["gold"].ratio
    other = evaluate_policies([scaled(sft), scaled(ppo)], "sft", 200, 0).survival["ppo"]["gold"].ratio
    assert one is not None and other is not None and one.interval is not None and other.interval is not None
    assert one.value == pytest.approx(other.value)
    assert (one.interval.low, one.interval.high) == pytest.approx((other.interval.low, other.interval.high))
    assert one.interval.low < one.value < one.interval.high


def test_no_ratio_where_the_proxy_gained_nothing(answers: Answers) -> None:
    stream = np.random.default_rng(0)
    noise = [answers(n, rewards=list(stream.normal(size=40)), gold=list(stream.random(40))) for n in ("sft", "ppo")]
    assert evaluate_policies(noise, "sft", 200, 0).survival["ppo"]["gold"].ratio is None
    flat = [answers("sft", rewards=[1.0] * 4, gold=[0.5] * 4), answers("ppo", rewards=[2.0] * 4, gold=[0.6] * 4)]
    found = evaluate_policies(flat, "sft", 200, 0).survival["ppo"]["gold"]
    assert found.ratio is None and found.proxy.deviations is None


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


# -- several runs of one policy ---------------------------------------------------------------------


def test_several_runs_are_one_policy_by_hand(answers: Answers) -> None:
    sft = answers("sft", gold=[0.5, 0.5])
    runs = [
        answers("ppo", run="a", gold=[0.4, 0.8], rewards=[1.0, 3.0], kl=[1.0, 2.0], responses=["x y", "x y"]),
        answers("ppo", run="b", gold=[0.6, 1.0], rewards=[5.0, 7.0], kl=[3.0, 4.0], responses=["u v", "w z"]),
    ]
    found = evaluate_policies([sft, *runs], "sft", 200, 0)
    scores = found.policies["ppo"]
    means = [scores.gold, scores.win, scores.kl, scores.reward]
    assert [m and m.value for m in means] == [pytest.approx(0.7), (0 + 1 + 1 + 1) / 4, 2.5, 4.0]
    assert scores.reward_std == pytest.approx(math.sqrt((9 + 1 + 1 + 9) / 4)), "over all answers of all runs"
    assert scores.gold is not None and scores.gold.count == 2, "over prompts, of which there are two"
    assert scores.distinct_1 == (2 / 4 + 4 / 4) / 2, "the mean over runs, because the share falls with more answers"
    assert [run.run for run in scores.runs] == ["a", "b"] and found.policies["sft"].runs == ()
    assert [run.gold and run.gold.value for run in scores.runs] == [pytest.approx(0.6), pytest.approx(0.8)]
    assert [run.win and run.win.value for run in scores.runs] == [0.5, 1.0]


def test_one_run_and_two_equal_runs_give_the_same_numbers(answers: Answers) -> None:
    stream = np.random.default_rng(0)
    sft, gold = answers("sft", gold=list(stream.random(30))), list(stream.random(30))
    once = evaluate_policies([sft, answers("ppo", gold=gold)], "sft", 100, 0).policies["ppo"]
    twice = [answers("ppo", run=run, gold=gold) for run in "ab"]
    again = evaluate_policies([sft, *twice], "sft", 100, 0).policies["ppo"]
    assert replace(again, runs=()) == once


def test_runs_meet_the_baselines_run_of_the_same_number(answers: Answers) -> None:
    """Each DPO run beats the SFT run that it started from, and not the other one."""
    sft = [answers("sft", run=run, gold=[g, g]) for run, g in (("a", 0.2), ("b", 0.8))]
    dpo = [answers("dpo", run=run, gold=[g, g]) for run, g in (("a", 0.3), ("b", 0.9))]
    found = evaluate_policies([*sft, *dpo], "sft", 20, 0).policies
    assert (found["dpo"].win and found["dpo"].win.value) == 1.0 and (found["sft"].win and found["sft"].win.value) == 0.5
    alone = evaluate_policies([*sft, replace(dpo[0], run="")], "sft", 20, 0).policies["dpo"]
    assert alone.win is not None and alone.win.value == 0.5, "one run meets both runs of the baseline"


def test_a_number_that_one_run_lacks_is_not_known(answers: Answers) -> None:
    runs = [answers("ppo", run="a", gold=[0.4], kl=[1.0]), answers("ppo", run="b", gold=[0.6])]
    scores = evaluate_policies(runs, "ppo", 20, 0).policies["ppo"]
    assert scores.kl is None and scores.perplexity is None


def test_the_same_run_twice_is_refused(answers: Answers) -> None:
    with pytest.raises(UserError, match='two policies have the name "ppo"'):
        evaluate_policies([answers("ppo", run="a", gold=[0.4])] * 2, "ppo", 20, 0)


def test_equal_answers_tie_although_batches_round_differently(answers: Answers) -> None:
    """A reward model gives one text 7.0 or 7.0 + 1e-6, depending on the texts beside it."""
    stream = np.random.default_rng(0)
    score = stream.normal(size=40) * 7
    again = list(score + 1e-6 * stream.normal(size=40))
    policies = [answers("sft", rewards=list(score)), answers("best", rewards=again)]
    win = evaluate_policies(policies, "sft", 20, 0).policies["best"].win
    assert win is not None and win.value == 0.5
