"""The headline names a winner only where the interval shows one."""

from __future__ import annotations

import numpy as np
import pytest

from concordant.evaluation.compare import evaluate_policies
from concordant.report.headline import caveats, comparisons_table, headline

NOISE = np.random.default_rng(0).normal(size=(5, 100)) * 0.1


@pytest.fixture
def said(answers):
    """The headline for policies with these mean gold scores over 100 prompts, the baseline first."""

    def of(bootstrap=500, prompts=100, **means):
        policies = [
            answers(name, gold=list(mean + noise[:prompts] - noise[:prompts].mean()))
            for (name, mean), noise in zip(means.items(), NOISE, strict=False)
        ]
        return headline(evaluate_policies(policies, next(iter(means)), bootstrap, 0))

    return of


def test_an_interval_without_zero_names_the_winner(said):
    text = said(sft=0.5, dpo=0.7)
    assert text.startswith("By gold, dpo is best: 0.70 against sft's 0.50, +0.20 (95 % interval +0.1")
    assert "winning 9" in text and text.endswith("of 100 held-out prompts, ties half.")


def test_a_reader_who_subtracts_finds_the_shown_difference(said):
    """Rounded to two digits 0.79 - 0.45 would be 0.34 beside a difference of 0.35."""
    text = said(sft=0.446, dpo=0.794)
    assert text.startswith("By gold, dpo is best: 0.794 against sft's 0.446, +0.348 (95 % interval +0.3")
    text = said(sft=0.794, dpo=0.446)
    assert text.startswith("By gold, dpo is worse than sft: 0.446 against sft's 0.794, −0.348 (95 % interval −0.3")


def test_an_interval_with_zero_names_nobody(said):
    text = said(sft=0.5, dpo=0.501)
    assert text.startswith("By gold, no difference between dpo and sft was shown: 0.50 against sft's 0.50, ")
    assert " interval −0.0" in text and " to +0.0" in text and "best" not in text and "winning" not in text


def test_equal_scores_are_called_equal(answers):
    text = headline(evaluate_policies([answers(n, gold=[0.0] * 20) for n in ("sft", "dpo")], "sft", 100, 0))
    assert text == (
        "By gold, no difference between dpo and sft was shown: 0 against sft's 0, "
        "the same score on each of 20 held-out prompts."
    )


def test_a_worse_policy_is_called_worse(said):
    assert said(sft=0.7, dpo=0.5).startswith(
        "By gold, dpo is worse than sft: 0.50 against sft's 0.70, −0.20 (95 % interval −0.2"
    )


def test_the_best_of_two_that_may_be_equal_is_not_called_best(said):
    text = said(sft=0.5, dpo=0.7, ppo=0.701)
    assert text.startswith("By gold, ppo is better than sft: 0.70 against sft's 0.50")
    assert "dpo is better than sft too. It was not shown that ppo is better than dpo: " in text
    assert "98.3 % interval" in text and "is best" not in text


def test_the_best_of_three_that_differ_is_called_best(said):
    text = said(sft=0.5, dpo=0.7, ppo=0.9)
    assert text.startswith("By gold, ppo is best: 0.90 against sft's 0.50") and "not shown" not in text


def test_a_policy_that_may_equal_the_baseline_can_have_the_highest_mean(answers):
    """ppo has the highest mean and a wide interval; only dpo is shown to be better than the baseline."""
    wide = np.where(np.arange(100) % 2, 2.5, -1.4)
    policies = [answers("sft", gold=list(0.5 + NOISE[0])), answers("dpo", gold=list(0.54 + NOISE[0]))]
    policies.append(answers("ppo", gold=list(0.05 + wide)))
    text = headline(evaluate_policies(policies, "sft", 500, 0))
    assert text.startswith("By gold, dpo is better than sft: ")
    assert "It was not shown that ppo is better than " in text and "is best" not in text


def test_several_that_show_nothing(said):
    text = said(sft=0.5, dpo=0.501, ppo=0.499)
    assert text.startswith("By gold, no policy was shown to be better than sft; the best of the others, dpo, has ")
    text = said(sft=0.5, dpo=0.501, ppo=0.3)
    assert text.endswith(" Shown to be worse than sft: ppo.")
    text = said(sft=0.5, dpo=0.3, ppo=0.2)
    assert text.startswith("By gold, every other policy is worse than sft; the best of them, dpo, has 0.30 against")


def test_few_prompts_show_nothing_and_the_headline_says_so(said):
    text = said(prompts=4, sft=0.5, dpo=0.9)
    assert text.startswith("By gold, no difference between dpo and sft was shown: ")
    assert text.endswith("over 4 held-out prompts, too few to show a difference (6 are needed).")
    assert "1 held-out prompt, too few" in said(prompts=1, sft=0.5, dpo=0.9)


def test_wins_of_few_prompts_are_counted(said):
    assert said(prompts=8, sft=0.2, dpo=0.9).endswith(", winning 8 of 8 held-out prompts, ties half.")


def test_one_policy_has_a_mean_and_an_interval(said):
    assert said(sft=0.5).startswith("By gold, sft has 0.50 (95 % interval 0.4")


def evaluation(answers, **means):
    centred = NOISE - NOISE.mean(axis=1, keepdims=True)
    policies = [answers(n, gold=list(m + noise)) for (n, m), noise in zip(means.items(), centred, strict=False)]
    return evaluate_policies(policies, "sft", 500, 0)


def test_the_report_says_how_several_comparisons_are_counted(answers):
    (said,) = caveats(evaluation(answers, sft=0.5, dpo=0.7, ppo=0.9))
    assert said.text.startswith("3 pairs of policies are compared.") and "98.3 %" in said.text
    assert caveats(evaluation(answers, sft=0.5, dpo=0.7)) == []
    few = [answers(n, gold=[0.5 + i / 100 for i in range(20)]) for n in ("sft", "dpo")]
    (said,) = caveats(evaluate_policies(few, "sft", 30, 0))
    assert said.text == "30 bootstrap resamples are too few for an interval of 95 %: set bootstrap to 2000 or more."


def test_every_pair_stands_in_the_table(answers):
    found = comparisons_table(evaluation(answers, sft=0.5, dpo=0.7, ppo=0.701))
    assert found.header == ("pair", "difference in gold", "98.3 % interval", "difference shown")
    assert [(row[0], row[3]) for row in found.rows] == [
        ("ppo against dpo", "none"),
        ("ppo against sft", "ppo is better"),
        ("dpo against sft", "dpo is better"),
    ]


def test_of_several_rivals_the_closest_is_named(said):
    text = said(sft=0.1, worst=0.69, ppo=0.70, dpo=0.695)
    assert text.startswith("By gold, ppo is better than sft") and "the closest is dpo, +0.0" in text
