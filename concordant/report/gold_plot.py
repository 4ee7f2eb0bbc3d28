"""The picture of over-optimisation: proxy and gold against KL, and over training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from concordant.evaluation.records import Evaluation, Mean, PolicyScores, Scorer
from concordant.report.curves import Curve, series
from concordant.report.plot_style import Theme, colours, png, short, styled, whole_steps

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Heights = tuple[float, float]  # by the proxy, by gold or the judge


@dataclass(frozen=True, slots=True, kw_only=True)
class _Point:
    """An evaluated policy, drawn as a diamond with its intervals. The diamond is hollow if the KL is a bound."""

    name: str
    kl: float
    is_bound: bool
    heights: tuple[Mean, Mean]
    runs: tuple[tuple[float, Heights], ...]  # KL and heights of each of several runs


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A run from its start on. ``x`` is KL or the step; the points of both heights have the same x."""

    kl: list[float]
    step: list[float]
    heights: tuple[list[float], list[float]]


def proxy_vs_gold(
    evaluation: Evaluation, curves: Mapping[str, Curve], starts: Mapping[str, str], theme: Theme
) -> bytes | None:
    """Draw the proxy above and gold or the judge below, against KL on the left and over training on the right.

    Where the upper line rises and the lower line does not, the proxy is over-optimised (Gao et al. 2023). ``starts``
    gives, for a run, the evaluated policy from which the run started. Policies whose proxy is below the baseline's are
    left out, because they did not optimise the proxy. None if there are fewer than two policies and no run.
    """
    truth = _truth(evaluation, curves)
    lines = {n: line_of(evaluation, c, starts.get(n), truth) for n, c in curves.items() if _was_probed(c)}
    over_training = any(line.heights[1] for line in lines.values())
    points = _points(evaluation, truth)
    if not over_training and len(points) < 2:
        return None
    ink = colours(list(dict.fromkeys([*(p.name for p in points), *lines])), theme)
    columns = 2 if over_training else 1
    with styled(5.4 * columns + 0.6, 7.4, theme) as figure:
        grid = figure.subplots(2, columns, sharex="col", sharey="row", squeeze=False)
        for row in range(2):
            for name, line in lines.items():
                for axes, x in zip(grid[row], (line.kl, line.step), strict=False):
                    height = line.heights[row]
                    axes.plot(x[: len(height)], height, color=ink[name], marker="o", markersize=4)
            for point in points:
                _diamond(grid[row][0], point, row, ink[point.name], theme)
            grid[row][0].margins(x=0.08, y=0.12)
        _name_axes(grid, truth)
        _legend(figure, points, list(lines), ink, theme)
        return png(figure)


def _truth(evaluation: Evaluation, curves: Mapping[str, Curve]) -> Scorer:
    scored = any(evaluation.scores(name, "gold") is not None for name in evaluation.policies)
    return "gold" if scored or any(series(c, "eval/gold")[1] for c in curves.values()) else "judge"


def _was_probed(curve: Curve) -> bool:
    return all(series(curve, key)[1] for key in ("eval/kl", "eval/reward"))


def line_of(evaluation: Evaluation, curve: Curve, start: str | None, truth: Scorer) -> Line:
    """The evaluations during a run, and before them its start: step 0, at the KL that the start has.

    The start's heights are those of the evaluated policy ``start``. If the start was not evaluated, they are those of
    the answers that the first step sampled, which are the start's own answers to training prompts.
    """
    rows = [row for row in curve if {"eval/kl", "eval/reward"} <= row.keys()]
    keys = ("reward", truth) if all(f"eval/{truth}" in row for row in rows) else ("reward",)
    before = _start(evaluation, curve, start, keys)
    points = [*([before] if before else []), *((r["eval/kl"], r["step"], [r[f"eval/{k}"] for k in keys]) for r in rows)]
    points = [p for p in points if all(map(math.isfinite, (p[0], *p[2])))]
    by_height = [[heights[i] for _, _, heights in points] for i in range(len(keys))]
    return Line(
        kl=[kl for kl, _, _ in points],
        step=[step for _, step, _ in points],
        heights=(by_height[0], by_height[1] if len(keys) > 1 else []),
    )


def _start(
    evaluation: Evaluation, curve: Curve, start: str | None, keys: Sequence[str]
) -> tuple[float, float, list[float]] | None:
    """KL, step and heights before the first update; None if they are not known."""
    if start is not None:
        means = [evaluation.policies[start].by(key) for key in keys]  # type: ignore[arg-type]  # the keys are scorers
        known = [mean.value for mean in means if mean is not None]
        return (0.0, 0.0, known) if len(known) == len(keys) else None
    first = next((row for row in curve if row["step"] == 1), {})
    names = ["objective/score" if key == "reward" else f"objective/{key}" for key in keys]
    if not {"objective/kl", *names} <= first.keys():
        return None
    return first["objective/kl"], 0.0, [first[name] for name in names]


def _diamond(axes: Axes, point: _Point, row: int, colour: str, theme: Theme) -> None:
    mean = point.heights[row]
    if mean.interval is not None:
        axes.plot([point.kl] * 2, [mean.interval.low, mean.interval.high], color=colour, linewidth=1.4, alpha=0.8)
    for run_kl, heights in point.runs:
        axes.plot(run_kl, heights[row], "D", markersize=4, color=colour, alpha=0.6)
    face = theme.page if point.is_bound else colour
    axes.plot(point.kl, mean.value, "D", markersize=9, color=colour, markerfacecolor=face, markeredgewidth=2)


def _points(evaluation: Evaluation, truth: Scorer) -> list[_Point]:
    """Every policy with known KL, proxy and truth, if its proxy is not below the baseline's."""
    base = evaluation.policies[evaluation.baseline].reward
    found = []
    for s in evaluation.policies.values():
        kl, proxy, quality = _kl(s), s.reward, s.by(truth)
        if kl is None or proxy is None or quality is None or base is None:
            continue
        if math.isfinite(kl) and proxy.value >= base.value:
            runs = tuple(run for r in s.runs if (run := _run(r, truth)) is not None)
            is_bound = s.kl_bound is not None
            found.append(_Point(name=s.name, kl=kl, is_bound=is_bound, heights=(proxy, quality), runs=runs))
    return found


def _kl(scores: PolicyScores) -> float | None:
    return scores.kl_bound if scores.kl_bound is not None else None if scores.kl is None else scores.kl.value


def _run(scores: PolicyScores, truth: Scorer) -> tuple[float, Heights] | None:
    kl, proxy, quality = _kl(scores), scores.reward, scores.by(truth)
    if kl is None or proxy is None or quality is None:
        return None
    return kl, (proxy.value, quality.value)


def _name_axes(grid: NDArray[Any], truth: Scorer) -> None:
    below = "Gold: the true quality" if truth == "gold" else "Judge: a score that no policy was trained on"
    grid[0][0].set(title="Proxy: the reward that --reward names", ylabel="proxy reward, held-out mean")
    grid[1][0].set(title=below, ylabel=f"{truth}, held-out mean", xlabel="KL from the reference, nats a response")
    if len(grid[0]) > 1:
        grid[1][1].set(xlabel="training step")
        whole_steps(grid[1][1])


def _legend(
    figure: Figure, points: Sequence[_Point], runs: Sequence[str], ink: Mapping[str, str], theme: Theme
) -> None:
    """Draw the legend. A name appears once, also if it has both a line and a diamond."""
    from matplotlib.lines import Line2D

    bound = {p.name: p.is_bound for p in points}
    handles, labels = [], []
    for name, colour in ink.items():
        handle = Line2D([], [], color=colour, marker="D" if name in bound else "o", linestyle="", markeredgewidth=2)
        if name in runs:
            handle.set_linestyle("-")
        if bound.get(name):
            handle.set_markerfacecolor(theme.page)
        handles.append(handle)
        labels.append(short(name).lstrip("_") + (" (KL is a bound)" if bound.get(name) else ""))
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 4))
