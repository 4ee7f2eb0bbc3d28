"""Pictures of the answers and of the reward model.

E edges or bins of a histogram.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from concordant.core.counted import counted
from concordant.core.digits import share
from concordant.evaluation.records import Evaluation, Interval, Mean, Scorer
from concordant.evaluation.reward_summary import RewardModelSummary
from concordant.report.plot_style import DASHED, Theme, colours, only_y_grid, png, short, styled
from concordant.report.wording import told

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BINS = 36
AXIS_NAMES: dict[Scorer, tuple[str, str]] = {
    "reward": ("Proxy reward", "reward, the proxy's units"),
    "gold": ("Gold", "true quality, 0 to 1"),
    "judge": ("Judge, never trained on", "score, the judge's units"),
}


def reward_comparison(evaluation: Evaluation, theme: Theme) -> bytes | None:
    """Draw the distribution of each policy's scores by the proxy and by gold or judge. None without any score."""
    order: tuple[Scorer, ...] = ("reward", "gold", "judge")
    known = [s for s in order if any(evaluation.scores(name, s) is not None for name in evaluation.policies)]
    if not known:
        return None
    known = known[:2]
    rows = len(evaluation.policies)
    with styled(5.6 * len(known) + 0.8, 1.5 + 0.85 * rows, theme) as figure:
        axes_list = figure.subplots(1, len(known), sharey=True, squeeze=False)[0]
        for axes, scorer in zip(axes_list, known, strict=True):
            _ridges(axes, evaluation, scorer, theme)
        return png(figure)


def _ridges(axes: Axes, evaluation: Evaluation, scorer: Scorer, theme: Theme) -> None:
    """Draw one row for each policy: a histogram, the mean with its interval, and a dot for each of several runs.

    The baseline's mean is a line through all rows.
    """
    policies = list(evaluation.policies)
    colour = colours(policies, theme)
    scored = {name: s for name in policies if (s := evaluation.scores(name, scorer)) is not None}
    low, high = _limits(list(scored.values()))
    edges_E = np.linspace(low, high, BINS + 1)
    top = len(policies) - 1
    for row, name in enumerate(policies):
        base, scores_RG, mean = float(top - row), scored.get(name), evaluation.mean(name, scorer)
        if scores_RG is None or mean is None:
            axes.text((low + high) / 2, base + 0.2, "not scored", ha="center", color=theme.soft)
            continue
        share_E = np.histogram(scores_RG.clip(low, high), edges_E)[0] / scores_RG.size
        axes.stairs(
            base + 0.72 * share_E / share_E.max(), edges_E, baseline=base, fill=True, color=colour[name], alpha=0.45
        )
        axes.stairs(base + 0.72 * share_E / share_E.max(), edges_E, baseline=base, color=colour[name], linewidth=1.2)
        if mean.interval is not None:
            axes.fill_betweenx(
                [base, base + 0.78], mean.interval.low, mean.interval.high, color=theme.ink, alpha=0.22, linewidth=0
            )
        axes.plot([mean.value] * 2, [base, base + 0.78], color=theme.ink, linewidth=2, solid_capstyle="butt")
        if len(scores_RG) > 1:
            runs_R = scores_RG.mean(axis=1)
            axes.plot(
                runs_R, [base + 0.1] * len(runs_R), "o", color=theme.ink, markersize=5, markeredgecolor=theme.page
            )
        left = mean.value > low + 0.8 * (high - low)  # near the right edge, the label is put on the left side
        box = {"boxstyle": "round,pad=0.15", "facecolor": theme.page, "edgecolor": "none", "alpha": 0.75}
        axes.annotate(
            told(mean), (mean.value, base + 0.64), (-6 if left else 6, 0), textcoords="offset points",
            ha="right" if left else "left", va="center", fontweight="bold", bbox=box,
        )  # fmt: skip
    base_mean = evaluation.mean(evaluation.baseline, scorer)
    if base_mean is not None and len(scored) > 1:
        axes.axvline(base_mean.value, color=theme.soft, linestyle=DASHED, linewidth=1, zorder=0)
    _name_rows(axes, evaluation, scorer, theme)
    axes.set(xlim=(low, high))


def _name_rows(axes: Axes, evaluation: Evaluation, scorer: Scorer, theme: Theme) -> None:
    top = len(evaluation.policies) - 1
    title, unit = AXIS_NAMES[scorer]
    axes.set(title=title, xlabel=f"{unit}; {counted(evaluation.prompts, 'prompt')}", ylim=(-0.06, top + 0.95))
    names = []
    for name, scores in evaluation.policies.items():
        runs = f"\n({len(scores.runs)} runs)" if scores.runs else ""
        names.append(short(name, 16) + runs + ("\n(baseline)" if name == evaluation.baseline else ""))
    axes.set_yticks([top - i + 0.3 for i in range(top + 1)], names, color=theme.ink)
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    axes.spines["left"].set_visible(False)
    for row in range(top + 1):
        axes.axhline(row, color=theme.grid, linewidth=1, zorder=0)


def _limits(scores: list[NDArray[np.float64]]) -> tuple[float, float]:
    """Limits that show all answers except the outermost half percent of each policy, which go into the end bins."""
    ends = [np.quantile(scores_RG, (0.005, 0.995)) for scores_RG in scores]
    low, high = min(float(e[0]) for e in ends), max(float(e[1]) for e in ends)
    room = 0.04 * (high - low) or 0.5  # 0.5 if all answers of all policies have the same score
    return low - room, high + room


def reward_calibration(summary: RewardModelSummary, theme: Theme) -> bytes:
    """Draw the calibration of the reward model, and its accuracy by the difference of lengths."""
    with styled(10.4, 4.4, theme) as figure:
        sure, length = figure.subplots(1, 2, width_ratios=(1.15, 1))
        blue = theme.palette[0]
        sure.plot([50, 100], [50, 100], color=theme.soft, linestyle=DASHED, linewidth=1, label="perfect calibration")
        most = max(b.pairs for b in summary.bins)
        sizes = [20 + 130 * b.pairs / most for b in summary.bins]
        x, observed = [100 * b.predicted for b in summary.bins], [b.observed for b in summary.bins]
        y = [100 * mean.value for mean in observed]
        sure.plot(x, y, color=blue, linewidth=1.5, label="this reward model")
        sure.scatter(x, y, s=sizes, color=blue, linewidths=0, clip_on=False, zorder=3)
        sure.errorbar(x, y, yerr=_arms(observed), fmt="none", color=theme.soft, linewidth=1.2, capsize=3, zorder=4)
        lows = [100 * mean.interval.low for mean in observed if mean.interval is not None]
        sure.set(
            title=f"Calibration (error {share(summary.calibration_error, summary.pairs)})",
            xlabel="confidence σ(|Δ|), % (larger dots: more pairs)",
            ylabel="ranked as people did, %",
            xlim=(50, 100.5),
            ylim=(min(45.0, *y, *lows) - 1, 103),
        )
        sure.legend(loc="lower right")
        _length_bars(length, summary, theme)
        return png(figure)


def _arms(means: Sequence[Mean]) -> NDArray[np.float64]:
    """How far the interval of each share reaches below and above it, in percent, (2, means)."""
    ends = [mean.interval or Interval(mean.value, mean.value) for mean in means]
    low = [100 * (mean.value - end.low) for mean, end in zip(means, ends, strict=True)]
    high = [100 * (end.high - mean.value) for mean, end in zip(means, ends, strict=True)]
    return np.array([low, high]).clip(min=0)


def _length_bars(axes: Axes, summary: RewardModelSummary, theme: Theme) -> None:
    names = {"longer": "longer", "same": "as long", "shorter": "shorter"}
    groups = summary.by_length
    heights, arms = [100 * g.accuracy.value for g in groups], _arms([g.accuracy for g in groups])
    axes.bar(
        range(len(groups)), heights, width=0.62, color=theme.palette[2], alpha=0.8,
        yerr=arms, capsize=5, error_kw={"ecolor": theme.ink, "linewidth": 1.2},
    )  # fmt: skip
    for i, (height, arm) in enumerate(zip(heights, arms[1], strict=True)):
        axes.text(i, height + arm + 1.5, told(groups[i].accuracy), ha="center", fontweight="bold")
    axes.axhline(50, color=theme.soft, linestyle=DASHED, linewidth=1)
    labels = [f"{names[g.name]}\n{counted(g.pairs, 'pair')}" for g in groups]
    axes.set_xticks(range(len(groups)), labels, color=theme.ink)
    axes.set(title="Accuracy by length", xlabel="the chosen answer is …", ylabel="accuracy, %", ylim=(0, 110))
    only_y_grid(axes)
