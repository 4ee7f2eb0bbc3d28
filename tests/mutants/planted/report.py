"""Planted bugs of report/: which number goes where, and in which words."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

MUTANTS = (
    Mutant(
        name="distinct-2-shown-as-distinct-1",
        file="report/contents.py",
        old="cell=lambda s: number(s.distinct_2, 3), known=lambda s: s.distinct_2 is not None),",
        new="cell=lambda s: number(s.distinct_1, 3), known=lambda s: s.distinct_2 is not None),",
        story="The table shows one number in two columns.",
        tests=("report/test_report.py",),
    ),
    Mutant(
        name="deviation-column-shows-the-mean",
        file="report/contents.py",
        old="cell=lambda s: number(s.reward_std), known=lambda s: s.reward_std is not None),",
        new="cell=lambda s: number(s.reward_mean), known=lambda s: s.reward_std is not None),",
        story="The column reward sd holds the mean reward.",
        tests=("report/test_report.py",),
    ),
    Mutant(
        name="judge-column-shows-gold",
        file="report/contents.py",
        old="cell=lambda s: number(s.judge_mean), known=lambda s: s.judge_mean is not None),",
        new="cell=lambda s: number(s.gold_mean), known=lambda s: s.judge_mean is not None),",
        story="The table's judge agrees with gold by construction.",
        tests=("report/test_report.py",),
    ),
    Mutant(
        name="predicted-and-observed-exchanged",
        file="report/contents.py",
        old="str(b.pairs), percent(b.predicted), percent(b.observed))",
        new="str(b.pairs), percent(b.observed), percent(b.predicted))",
        story="An overconfident reward model is shown as a modest one.",
        tests=("report/test_report.py",),
    ),
    Mutant(
        name="the-second-best-by-name",
        file="report/contents.py",
        old='ahead = f"{ranking[0]} is ahead of {ranking[1]}, the second best, by {number(lead.mean)}"',
        new='ahead = f"{ranking[0]} is ahead of {ranking[-1]}, the second best, by {number(lead.mean)}"',
        story="The caveat names the worst policy as the second best.",
        tests=("report/test_report.py",),
    ),
    Mutant(
        name="survival-of-the-proxys-gain",
        file="report/contents.py",
        old='gains = f"{gains} {signed(other.deviations)} sd"',
        new='gains = f"{gains} {signed(proxy.deviations)} sd"',
        story="Every sentence about over-optimisation says that both scorers moved alike.",
        tests=("report/test_report.py",),
    ),
    Mutant(
        name="ends-of-the-win-interval-exchanged",
        file="report/write.py",
        old='"win_rate_low": s.win_interval.low if s.win_interval else None,',
        new='"win_rate_low": s.win_interval.high if s.win_interval else None,',
        story="report.json has a lower end of the win rate that lies above the rate.",
        tests=("report/test_report.py",),
    ),
    Mutant(
        name="gain-of-the-proxy-twice",
        file="report/write.py",
        old='"gain": _gain(survival.other),',
        new='"gain": _gain(survival.proxy),',
        story="report.json says of every policy that all of the proxy's gain was confirmed.",
        tests=("report/test_report.py",),
    ),
    Mutant(
        name="a-bound-without-its-sign",
        file="report/wording.py",
        old='return ("≤ " if scores.kl_is_bound and scores.kl is not None else "") + number(scores.kl)',
        new='return ("≤ " if not scores.kl_is_bound and scores.kl is None else "") + number(scores.kl)',
        story="The bound of best-of-n is shown as a measured KL.",
        tests=("report/test_report.py",),
    ),
    Mutant(
        name="noise-that-touches-zero",
        file="report/wording.py",
        old="return gain.interval is not None and gain.interval.low <= 0 <= gain.interval.high",
        new="return gain.interval is not None and gain.interval.low < 0 < gain.interval.low",
        story="The headline calls a winner whose interval holds zero.",
        tests=("report/test_report.py",),
    ),
    Mutant(
        name="proxy-and-gold-exchange-their-panels",
        file="report/curve_plots.py",
        old="heights=(s.reward_mean, quality)",
        new="heights=(quality, s.reward_mean)",
        story="In the picture of over-optimisation the policies' diamonds stand in each other's panels.",
        tests=("report/test_report.py",),
    ),
    Mutant(
        name="a-rows-first-number-wins",
        file="report/curves.py",
        old='by_step.setdefault(numbers["step"], {}).update(numbers)',
        new='by_step[numbers["step"]] = numbers | by_step.get(numbers["step"], {})',
        story="A step that was logged again after a resume is drawn with its old numbers.",
        tests=("report/test_curves.py",),
    ),
)
