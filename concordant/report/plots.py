"""Pictures of the answers and of the reward model.

E edges or bins of a histogram.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from concordant.evaluation.records import Evaluation, Scorer
from concordant.evaluation.reward_summary import RewardModelSummary
from concordant.report.plot_style import DASHED, GRID, INK, SOFT, colours, only_y_grid, save, short, styled
from concordant.report.wording import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BINS = 36
AXIS_NAMES: dict[Scorer, tuple[str, str]] = {
    "reward": ("Proxy reward", "reward, the proxy's units"),
    "gold": ("Gold", "true quality, 0 to 1"),
    "judge": ("Judge, never trained on", "score, the judge's units"),
}


def reward_comparison(evaluation: Evaluation, path: Path) -> Path | None:
    """Draw the distribution of each policy's scores by the proxy and by gold or judge. None without any score."""
    known: list[Scorer] = [
        s for s in ("reward", "gold", "judge") if any(a.scores(s) is not None for a in evaluation.answers)
    ]
    if not known:
        return None
    known = known[:2]
    rows = len(evaluation.answers)
    with styled(5.6 * len(known) + 0.8, 1.5 + 0.85 * rows) as figure:
        axes_list = figure.subplots(1, len(known), sharey=True, squeeze=False)[0]
        for axes, scorer in zip(axes_list, known, strict=True):
            _ridges(axes, evaluation, scorer)
        return save(figure, path)


def _ridges(axes: Axes, evaluation: Evaluation, scorer: Scorer) -> None:
    """Draw one row for each policy: a histogram and the mean. The baseline's mean is a line through all rows."""
    colour = colours([a.name for a in evaluation.answers])
    scored = {a.name: np.asarray(s, np.float64) for a in evaluation.answers if (s := a.scores(scorer)) is not None}
    low, high = _limits(list(scored.values()))
    edges_E = np.linspace(low, high, BINS + 1)
    top = len(evaluation.answers) - 1
    for row, answers in enumerate(evaluation.answers):
        base, scores_G = float(top - row), scored.get(answers.name)
        if scores_G is None:
            axes.text((low + high) / 2, base + 0.2, "not scored", ha="center", color=SOFT)
            continue
        share_E = np.histogram(scores_G.clip(low, high), edges_E)[0] / len(scores_G)
        ink, mean = colour[answers.name], float(scores_G.mean())
        axes.stairs(base + 0.72 * share_E / share_E.max(), edges_E, baseline=base, fill=True, color=ink, alpha=0.45)
        axes.stairs(base + 0.72 * share_E / share_E.max(), edges_E, baseline=base, color=ink, linewidth=1.2)
        axes.plot([mean, mean], [base, base + 0.78], color=INK, linewidth=2, solid_capstyle="butt")
        left = mean > low + 0.8 * (high - low)  # near the right edge, the label is put on the left side
        box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.75}
        axes.annotate(
            number(mean), (mean, base + 0.64), (-6 if left else 6, 0), textcoords="offset points",
            ha="right" if left else "left", va="center", fontweight="bold", bbox=box,
        )  # fmt: skip
    if evaluation.baseline in scored and len(scored) > 1:
        axes.axvline(float(scored[evaluation.baseline].mean()), color=SOFT, linestyle=DASHED, linewidth=1, zorder=0)
    title, unit = AXIS_NAMES[scorer]
    axes.set(title=title, xlabel=unit, xlim=(low, high), ylim=(-0.06, top + 0.95))
    names = [short(a.name, 16) + ("\n(baseline)" if a.name == evaluation.baseline else "") for a in evaluation.answers]
    axes.set_yticks([top - i + 0.3 for i in range(top + 1)], names, color=INK)
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    axes.spines["left"].set_visible(False)
    for row in range(top + 1):
        axes.axhline(row, color=GRID, linewidth=1, zorder=0)


def _limits(scores: list[NDArray[np.float64]]) -> tuple[float, float]:
    """Limits that show all answers except the outermost half percent of each policy, which go into the end bins."""
    ends = [np.quantile(scores_G, (0.005, 0.995)) for scores_G in scores]
    low, high = min(float(e[0]) for e in ends), max(float(e[1]) for e in ends)
    room = 0.04 * (high - low) or 0.5  # 0.5 if all answers of all policies have the same score
    return low - room, high + room


def reward_calibration(summary: RewardModelSummary, path: Path) -> Path:
    """Draw the calibration of the reward model, and its accuracy by the difference of lengths."""
    with styled(10.4, 4.4) as figure:
        sure, length = figure.subplots(1, 2, width_ratios=(1.15, 1))
        sure.plot([50, 100], [50, 100], color=SOFT, linestyle=DASHED, linewidth=1, label="perfect calibration")
        most = max(b.pairs for b in summary.bins)
        sizes = [30 + 270 * b.pairs / most for b in summary.bins]
        x, y = [100 * b.predicted for b in summary.bins], [100 * b.observed for b in summary.bins]
        sure.plot(x, y, color="#0072B2", linewidth=1.5, label="this reward model")
        sure.scatter(x, y, s=sizes, color="#0072B2", alpha=0.75, linewidths=0, clip_on=False, zorder=3)
        sure.set(
            title=f"Calibration (error {number(summary.calibration_error, 3)})",
            xlabel="confidence σ(|Δ|), % (larger dots: more pairs)",
            ylabel="ranked as people did, %",
            xlim=(50, 100.5),
            ylim=(min(45.0, *y) - 1, 103),
        )
        sure.legend(loc="lower right")
        _length_bars(length, summary)
        return save(figure, path)


def _length_bars(axes: Axes, summary: RewardModelSummary) -> None:
    names = {"longer": "longer", "same": "as long", "shorter": "shorter"}
    groups = summary.by_length
    heights = [100 * g.accuracy for g in groups]
    axes.bar(range(len(groups)), heights, width=0.62, color="#009E73", alpha=0.8)
    for i, height in enumerate(heights):
        axes.text(i, height + 1.5, f"{number(height, 0)} %", ha="center", fontweight="bold")
    axes.axhline(50, color=SOFT, linestyle=DASHED, linewidth=1)
    labels = [f"{names[g.name]}\n{g.pairs} pairs" for g in groups]
    axes.set_xticks(range(len(groups)), labels, color=INK)
    axes.set(title="Accuracy by length", xlabel="the chosen answer is …", ylabel="accuracy, %", ylim=(0, 108))
    only_y_grid(axes)
