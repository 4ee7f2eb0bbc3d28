"""Planted bugs of report/: which number goes where, and in which words."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

MUTANTS = (
    Mutant(
        name="distinct-2-shown-as-distinct-1",
        file="report/contents.py",
        old="cell=lambda s: share(s.distinct_2, s.prompts), known",
        new="cell=lambda s: share(s.distinct_1, s.prompts), known",
        story="The table shows one number in two columns.",
        tests=("report/test_columns.py",),
    ),
    Mutant(
        name="deviation-column-shows-the-mean",
        file="report/contents.py",
        old="return measured(s.reward_std, None",
        new="return measured(s.reward and s.reward.value, None",
        story="The column reward sd holds the mean reward.",
        tests=("report/test_columns.py",),
    ),
    Mutant(
        name="judge-column-shows-gold",
        file="report/contents.py",
        old="cell=lambda s: with_interval(s.judge), known",
        new="cell=lambda s: with_interval(s.gold), known",
        story="The table's judge agrees with gold by construction.",
        tests=("report/test_columns.py",),
    ),
    Mutant(
        name="predicted-and-observed-exchanged",
        file="report/reward_section.py",
        old="+ (with_interval(b.predicted), with_interval(b.observed))",
        new="+ (with_interval(b.observed), with_interval(b.predicted))",
        story="An overconfident reward model is shown as a modest one.",
        tests=("report/test_columns.py",),
    ),
    Mutant(
        name="the-furthest-rival-is-called-the-closest",
        file="report/headline.py",
        old="closest = min(rivals, key=lambda c: c.difference.value)",
        new="closest = max(rivals, key=lambda c: c.difference.value)",
        story="The headline shows the large lead over the weakest rival and hides the small one over the strongest.",
        tests=("report/test_headline.py",),
    ),
    Mutant(
        name="survival-of-the-proxys-gain",
        file="report/contents.py",
        old="moved = [signed(told(mean), mean.value) for mean in (proxy, other)]",
        new="moved = [signed(told(mean), mean.value) for mean in (proxy, proxy)]",
        story="Every sentence about over-optimisation says that both scorers moved alike.",
        tests=("report/test_columns.py",),
    ),
    Mutant(
        name="ends-of-the-win-interval-exchanged",
        file="report/write.py",
        old='f"{name}_low": interval.low if interval else None,',
        new='f"{name}_low": interval.high if interval else None,',
        story="report.json has a lower end of the win rate that lies above the rate.",
        tests=("report/test_columns.py",),
    ),
    Mutant(
        name="gain-of-the-proxy-twice",
        file="report/write.py",
        old='"gain": _gain(survival.other),',
        new='"gain": _gain(survival.proxy),',
        story="report.json says of every policy that all of the proxy's gain was confirmed.",
        tests=("report/test_columns.py",),
    ),
    Mutant(
        name="a-bound-without-its-sign",
        file="report/wording.py",
        old='return f"≤ {number(scores.kl_bound)}" if scores.kl_bound is not None',
        new="return number(scores.kl_bound) if scores.kl_bound is not None",
        story="The bound of best-of-n is shown as a measured KL.",
        tests=("report/test_columns.py",),
    ),
    Mutant(
        name="a-difference-shown-by-its-mean",
        file="evaluation/verdict.py",
        old="return interval is not None and interval.low > 0 and",
        new="return interval is not None and difference.value > 0 and",
        story="The headline calls a winner whose interval holds zero.",
        tests=("report/test_headline.py", "evaluation/test_verdict.py"),
    ),
    Mutant(
        name="proxy-and-gold-exchange-their-panels",
        file="report/gold_plot.py",
        old="heights=(proxy, quality), runs=runs",
        new="heights=(quality, proxy), runs=runs",
        story="In the picture of over-optimisation the policies' diamonds stand in each other's panels.",
        tests=("report/test_gold_plot.py",),
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
