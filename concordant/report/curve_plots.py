"""The picture of training: the curves of every run.

A line is the mean of neighbouring steps, and a faint line shows the single steps. Dots are held-out data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from concordant.report.curves import Curve, series, stage_of
from concordant.report.plot_style import Theme, colours, png, short, styled, whole_steps

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SMOOTH_FROM = 30  # points; shorter curves are not smoothed
COLUMNS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One metric of one stage; "" is any stage."""

    stage: str
    key: str
    title: str
    unit: str
    held_out: str = ""  # the key of the same metric on held-out data


PANELS = (
    Panel(stage="sft", key="loss", title="SFT: loss", unit="nats a token", held_out="eval/loss"),
    Panel(stage="reward", key="loss", title="Reward model: loss", unit="nats a pair", held_out="eval/loss"),
    Panel(
        stage="reward", key="accuracy", title="Reward model: accuracy", unit="share of pairs", held_out="eval/accuracy"
    ),
    Panel(stage="dpo", key="loss", title="DPO: loss", unit="loss a pair", held_out="eval/loss"),
    Panel(
        stage="dpo",
        key="rewards/accuracies",
        title="DPO: accuracy",
        unit="share of pairs",
        held_out="eval/rewards/accuracies",
    ),
    Panel(
        stage="dpo", key="rewards/margins", title="DPO: margin", unit="implicit reward", held_out="eval/rewards/margins"
    ),
    Panel(stage="dpo", key="", title="DPO: proxy reward", unit="the proxy's units", held_out="eval/reward"),
    Panel(stage="dpo", key="", title="DPO: KL from the reference", unit="nats a response", held_out="eval/kl"),
    Panel(
        stage="distill",
        key="divergence",
        title="Distillation: divergence",
        unit="nats a token",
        held_out="eval/divergence",
    ),
    Panel(
        stage="ppo", key="objective/score", title="PPO: proxy reward", unit="the proxy's units", held_out="eval/reward"
    ),
    Panel(
        stage="ppo", key="objective/kl", title="PPO: KL from the reference", unit="nats a response", held_out="eval/kl"
    ),
    Panel(stage="ppo", key="objective/entropy", title="PPO: entropy", unit="nats a response"),
    Panel(stage="ppo", key="response/length", title="PPO: answer length", unit="tokens", held_out="eval/length"),
    Panel(
        stage="ppo",
        key="response/eos_fraction",
        title="PPO: answers that end",
        unit="share of answers",
        held_out="eval/eos_fraction",
    ),
    Panel(stage="ppo", key="policy/clip_fraction", title="PPO: clipped ratios", unit="share of tokens"),
    Panel(stage="", key="", title="Gold on held-out prompts", unit="gold, 0 to 1", held_out="eval/gold"),
)


def training_curves(curves: Mapping[str, Curve], theme: Theme) -> bytes | None:
    """Draw a panel for every metric that a run has. Runs of one stage share panels. None if there is no metric."""
    stages = {name: stage_of(curve) for name, curve in curves.items()}
    drawn = [(panel, runs) for panel in PANELS if (runs := _runs(panel, curves, stages))]
    if not drawn:
        return None
    ink = colours(_by_stage(curves, stages), theme)
    ink = {name: ink[shown] for name, shown in zip(curves, _by_stage(curves, stages), strict=True)}
    rows = math.ceil(len(drawn) / COLUMNS)
    columns = min(COLUMNS, len(drawn))
    with styled(4.6 * columns, 3.2 * rows + 0.5, theme) as figure:
        grid = figure.subplots(rows, columns, squeeze=False)
        cells = list(grid.flat)
        for axes, (panel, runs) in zip(cells, drawn, strict=False):
            _draw(axes, panel, {name: curves[name] for name in runs}, ink, theme)
        for axes in cells[len(drawn) :]:
            axes.remove()
        _key(figure, theme)
        return png(figure)


def _by_stage(curves: Mapping[str, Curve], stages: Mapping[str, str]) -> list[str]:
    """The names that choose the colours. The only run of a stage gets the colour of the stage."""
    alone = [stage for stage in stages.values() if list(stages.values()).count(stage) == 1]
    return [stages[name] if stages[name] in alone and stages[name] not in curves else name for name in curves]


def _runs(panel: Panel, curves: Mapping[str, Curve], stages: Mapping[str, str]) -> list[str]:
    fit = [name for name in curves if panel.stage in ("", stages[name])]
    return [name for name in fit if series(curves[name], panel.key)[0] or series(curves[name], panel.held_out)[0]]


def _draw(axes: Axes, panel: Panel, runs: Mapping[str, Curve], ink: Mapping[str, str], theme: Theme) -> None:
    handles = []
    for name, curve in runs.items():
        x, y = series(curve, panel.key)
        if y:
            smooth = _smooth(y)
            if smooth is not y:
                axes.plot(x, y, color=ink[name], alpha=0.25, linewidth=1)
            handles += axes.plot(x, smooth, color=ink[name], marker="o" if len(y) == 1 else "")
        held_x, held_y = series(curve, panel.held_out)
        if held_y:
            style = ":" if y else "-"
            dots = axes.plot(
                held_x, held_y, style, color=ink[name], linewidth=1.4, marker="o", markersize=6,
                markeredgecolor=theme.page, markeredgewidth=0.8, zorder=4,
            )  # fmt: skip
            handles += dots if not y else []
    axes.set(title=panel.title, xlabel="step", ylabel=panel.unit)
    whole_steps(axes)
    axes.margins(y=0.12)
    if len(runs) > 1 or not panel.stage:  # otherwise the title already names the only run
        axes.legend(handles, [short(name).lstrip("_") for name in runs], fontsize=10)


def _smooth(y: list[float]) -> list[float]:
    """The centred moving mean over a twentieth of the curve, over fewer points at both ends."""
    if len(y) < SMOOTH_FROM:
        return y
    half = max(1, len(y) // 40)
    total = np.concatenate([[0.0], np.cumsum(y)])
    at = np.arange(len(y))
    low, high = np.maximum(at - half, 0), np.minimum(at + half + 1, len(y))
    return list((total[high] - total[low]) / (high - low))


def _key(figure: Figure, theme: Theme) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=theme.soft),
        Line2D([], [], color=theme.soft, alpha=0.35, linewidth=1),
        Line2D([], [], color=theme.soft, marker="o", markersize=6, linestyle=":", markeredgecolor=theme.page),
    ]
    labels = ["training, mean of neighbouring steps", "training, each step", "held-out"]
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=10, labelcolor=theme.soft)
