"""Planted bugs of evaluation/: means, intervals, wins, calibration."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

MUTANTS = (
    Mutant(
        name="gains-in-the-policys-own-deviations",
        file="evaluation/compare.py",
        old="bootstrap, seed), float(base_RG.std())",
        new="bootstrap, seed), float(mine_RG.std())",
        story="A policy that always says the same seems to gain without bound.",
        tests=("evaluation/test_compare.py",),
    ),
    Mutant(
        name="distinct-2-counts-words",
        file="evaluation/compare.py",
        old="distinct_2=_distinct(mine, 2),",
        new="distinct_2=_distinct(mine, 1),",
        story="The column distinct-2 repeats distinct-1.",
        tests=("evaluation/test_compare.py",),
    ),
    Mutant(
        name="the-judges-mean-is-the-proxys",
        file="evaluation/compare.py",
        old='judge=means["judge"],',
        new='judge=means["reward"],',
        story="The report shows the proxy's mean as that of the judge, so over-optimisation cannot be seen.",
        tests=("evaluation/test_compare.py",),
    ),
    Mutant(
        name="resampled-survival-by-the-other-deviation",
        file="evaluation/compare.py",
        old="ratio_S = means_S2[kept, 1] / spread[1] / proxy_S[kept]",
        new="ratio_S = means_S2[kept, 1] / spread[0] / proxy_S[kept]",
        story="The interval of the survival does not hold the survival itself.",
        tests=("evaluation/test_compare.py",),
    ),
    Mutant(
        name="intervals-of-a-single-comparison",
        file="evaluation/verdict.py",
        old="level, fewest = 1 - (1 - LEVEL) / len(pairs), fewest_prompts(len(pairs))",
        new="level, fewest = LEVEL, fewest_prompts(len(pairs))",
        story="Of many policies that are equally good, one is called better in more than one report of twenty.",
        tests=("evaluation/test_verdict.py",),
    ),
    Mutant(
        name="columns-resampled-apart",
        file="evaluation/bootstrap.py",
        old="np.stack([x_G[draw].mean(axis=1) for x_G in columns], axis=1)",
        new="np.stack([np.roll(x_G, i)[draw].mean(axis=1) for i, x_G in enumerate(columns)], axis=1)",
        story="The interval of the survival is too wide, since the two gains come from different prompts.",
        tests=("evaluation/test_bootstrap.py", "evaluation/test_compare.py"),
    ),
    Mutant(
        name="repetition-over-all-answers-together",
        file="evaluation/metrics.py",
        old="return math.fsum(shares) / len(shares) if shares else None",
        new="return math.fsum(shares) / len(responses) if shares else None",
        story="Short answers, which cannot repeat four words, hide that the long ones do.",
        tests=("evaluation/test_metrics.py",),
    ),
    Mutant(
        name="confidence-bins-closed-on-the-wrong-side",
        file="evaluation/reward_summary.py",
        old='bin_P = np.clip(np.searchsorted(edges, confidence_P, side="right") - 1, 0, bins - 1)',
        new='bin_P = np.clip(np.searchsorted(edges, confidence_P, side="left") - 1, 0, bins - 1)',
        story="A pair whose confidence is the lower edge of a bin is counted in the bin below.",
        tests=("evaluation/test_reward_summary.py",),
    ),
    Mutant(
        name="score-range-of-chosen-answers",
        file="evaluation/reward_summary.py",
        old="score_std=float(np.concatenate([chosen_P, rejected_P]).std()),",
        new="score_std=float(chosen_P.std()),",
        story="The doctor calls a healthy PPO run out of the reward model's range.",
        tests=("evaluation/test_reward_summary.py",),
    ),
    Mutant(
        name="calibration-weighs-bins-alike",
        file="evaluation/reward_summary.py",
        old="sum(b.pairs * abs(b.observed.value - b.predicted) for b in calibration) / len(delta_P)",
        new="sum(abs(b.observed.value - b.predicted) for b in calibration) / len(calibration)",
        story="One odd pair in an empty bin makes a well calibrated reward model look bad.",
        tests=("evaluation/test_reward_summary.py",),
    ),
    Mutant(
        name="intervals-of-few-prompts-are-too-narrow",
        file="evaluation/verdict.py",
        old="level=expanded(level, len(difference_G)))",
        new="level=level)",
        story="Of two policies that are equally good, one is called better too often where there are few prompts.",
        tests=("evaluation/test_verdict.py",),
    ),
    Mutant(
        name="one-prompt-too-few-shows-a-difference",
        file="evaluation/verdict.py",
        old="return math.ceil(1 + math.log2(comparisons / (1 - LEVEL)))",
        new="return math.ceil(math.log2(comparisons / (1 - LEVEL)))",
        story="Five prompts whose differences all have one sign name a winner, which chance does in 6 of 100 cases.",
        tests=("evaluation/test_verdict.py",),
    ),
)
