"""Planted bugs of evaluation/: means, intervals, wins, calibration."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

MUTANTS = (
    Mutant(
        name="gains-in-the-policys-own-deviations",
        file="evaluation/compare.py",
        old="difference_G, spread = mine_G - base_G, float(base_G.std())",
        new="difference_G, spread = mine_G - base_G, float(mine_G.std())",
        story="A policy that always says the same seems to gain without bound.",
        tests=("evaluation/test_compare.py",),
    ),
    Mutant(
        name="distinct-2-counts-words",
        file="evaluation/compare.py",
        old="distinct_2=distinct(mine.responses, 2),",
        new="distinct_2=distinct(mine.responses, 1),",
        story="The column distinct-2 repeats distinct-1.",
        tests=("evaluation/test_compare.py",),
    ),
    Mutant(
        name="the-judges-mean-is-the-proxys",
        file="evaluation/compare.py",
        old='judge_mean=_mean(mine, "judge"),',
        new='judge_mean=_mean(mine, "reward"),',
        story="The report shows the proxy's mean as that of the judge, so over-optimisation cannot be seen.",
        tests=("evaluation/test_compare.py",),
    ),
    Mutant(
        name="resampled-survival-by-the-other-deviation",
        file="evaluation/compare.py",
        old="interval = percentile_interval(means_S2[kept, 1] / spread[1] / proxy_S[kept])",
        new="interval = percentile_interval(means_S2[kept, 1] / spread[0] / proxy_S[kept])",
        story="The interval of the survival does not hold the survival itself.",
        tests=("evaluation/test_compare.py",),
    ),
    Mutant(
        name="the-lead-over-the-baseline",
        file="evaluation/compare.py",
        old="return _gain(ranked[0], ranked[1], bootstrap, seed)",
        new="return _gain(ranked[0], ranked[-1], bootstrap, seed)",
        story="The report says that the best policy is far ahead of the second best, which is close behind it.",
        tests=("evaluation/test_compare.py",),
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
        old="calibration_error=sum(b.pairs * abs(b.observed - b.predicted) for b in calibration) / len(delta_P),",
        new="calibration_error=sum(abs(b.observed - b.predicted) for b in calibration) / len(calibration),",
        story="One odd pair in an empty bin makes a well calibrated reward model look bad.",
        tests=("evaluation/test_reward_summary.py",),
    ),
)
