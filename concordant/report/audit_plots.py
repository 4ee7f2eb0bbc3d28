"""Pictures of an audit: dots with intervals of 95 %."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from concordant.core.counted import counted
from concordant.evaluation.audit import Ensemble, Group
from concordant.evaluation.audit_result import RewardAudit
from concordant.evaluation.records import Interval, Mean
from concordant.report.plot_style import DASHED, Theme, png, short, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LEAST_REACH = 0.5  # deviations to both sides that are shown, so that noise does not look like a shift
TITLES = {"length": "The chosen answer is …", "turns": "Turns of the user", "topic": "Topic"}


def accuracies(audit: RewardAudit, theme: Theme) -> bytes:
    """Accuracy by length, turns and topic, one panel each."""
    rows = max(len(groups) for groups in audit.groups.values())
    with styled(13.2, 1.6 + 0.42 * rows, theme) as figure:
        for axes, (kind, groups) in zip(figure.subplots(1, len(audit.groups)), audit.groups.items(), strict=True):
            _groups(axes, groups, theme)
            axes.axvline(100 * audit.summary.accuracy.value, color=theme.soft, linewidth=1, zorder=0)
            axes.set(title=TITLES[kind], xlabel="accuracy, %", xlim=(0, 103))
        return png(figure)


def word_shifts(audit: RewardAudit, theme: Theme) -> bytes | None:
    """How far a word moves the score, one row for each word. None where no word was scored."""
    rows = [(group, word, mean) for group, found in audit.words.items() for word, mean in found.items()]
    if not rows:
        return None
    with styled(8.6, 1.4 + 0.36 * len(rows), theme) as figure:
        axes = figure.subplots()
        names = [f"{group}: {word}" for group, word, _ in rows]
        _dots(axes, names, [mean for _, _, mean in rows], theme)
        axes.axvline(0, color=theme.soft, linestyle=DASHED, linewidth=1, zorder=0)
        reach = max(_LEAST_REACH, *map(abs, axes.get_xlim()))
        axes.set_xlim(-reach, reach)
        axes.set(title="One word, the same answer", xlabel="shift of the score, in deviations of the data's scores")
        return png(figure)


def disagreement(ensemble: Ensemble, theme: Theme) -> bytes:
    """Accuracy of the mean of several rewards, by quarters of their disagreement."""
    with styled(8.6, 1.6 + 0.42 * len(ensemble.quarters), theme) as figure:
        axes = figure.subplots()
        _groups(axes, ensemble.quarters, theme)
        axes.axvline(100 * ensemble.mean.value, color=theme.soft, linewidth=1, zorder=0)
        axes.set(title="Quarters of the pairs, by disagreement", xlabel="accuracy of the mean, %", xlim=(0, 103))
        return png(figure)


def _groups(axes: Axes, groups: Sequence[Group], theme: Theme) -> None:
    names = [f"{short(group.name)}  ({counted(group.pairs, 'pair')})" for group in groups]
    _dots(axes, names, [group.accuracy.times(100) for group in groups], theme)
    axes.axvline(50, color=theme.soft, linestyle=DASHED, linewidth=1, zorder=0)


def _dots(axes: Axes, names: Sequence[str], means: Sequence[Mean], theme: Theme) -> None:
    """One row for each mean, the first at the top."""
    at = list(range(len(means)))[::-1]
    ends = [mean.interval or Interval(mean.value, mean.value) for mean in means]
    values = [mean.value for mean in means]
    arms = [[max(0.0, v - e.low) for v, e in zip(values, ends, strict=True)]]
    arms.append([max(0.0, e.high - v) for v, e in zip(values, ends, strict=True)])
    axes.errorbar(values, at, xerr=arms, fmt="none", color=theme.soft, linewidth=1.5, capsize=3, zorder=2)
    axes.plot(values, at, "o", color=theme.palette[0], markersize=7, zorder=3)
    axes.set_yticks(at, names, color=theme.ink)
    axes.set_ylim(-0.6, len(means) - 0.4)
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
