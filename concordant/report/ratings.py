"""How the report shows Bradley–Terry ratings and the win matrix: a table, and a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from concordant.core.counted import counted
from concordant.core.digits import number
from concordant.evaluation.records import Evaluation, Rating, Ratings
from concordant.report.blocks import Block, Heading, Paragraph, Table
from concordant.report.plot_style import DASHED, Theme, colours, png, short, styled
from concordant.report.wording import SCORER_NAMES, told, with_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WHAT = (
    "A policy's Bradley–Terry rating says how often it wins against every other one: a lead of 100 points wins 64 % of"
    " the prompts, one of 400 points 91 %. The ratings fit all comparisons of two policies at once, decided by {by}."
    " Ties are half a win for each, and {anchor} has 0. Numbers in brackets are 95 % intervals over prompts. Each row's"
    " other cells say how often the policy of the row wins against the policy of the column."
)


def ratings_blocks(evaluation: Evaluation) -> list[Block]:
    """A row for each policy, the best first; no block without ratings."""
    ratings = evaluation.ratings
    if ratings is None or evaluation.decided_by is None:
        return []
    order = ratings.ranking()
    rows = [
        (name, rating_text(ratings.ratings[name]), *(with_interval(ratings.wins[name].get(other)) for other in order))
        for name in order
    ]
    by = SCORER_NAMES[evaluation.decided_by]
    return [
        Heading("Ratings"),
        Paragraph(_WHAT.format(by=by, anchor=ratings.anchor)),
        Table(("policy", "rating", *(f"against {name}" for name in order)), tuple(rows)),
    ]


def rating_text(rating: Rating) -> str:
    """The rating in whole points and its interval, such as "112 [86, 140]"."""
    ends = rating.interval
    if ends is None or ends.low == ends.high:
        return number(rating.value, 0)
    return f"{number(rating.value, 0)} [{number(ends.low, 0)}, {number(ends.high, 0)}]"


def ratings_picture(evaluation: Evaluation, theme: Theme) -> bytes | None:
    """Draw the ratings with their intervals beside the win matrix. None without ratings."""
    ratings = evaluation.ratings
    if ratings is None:
        return None
    order = ratings.ranking()
    with styled(7.0 + 0.95 * len(order), 1.6 + 0.62 * len(order), theme) as figure:
        points, matrix = figure.subplots(1, 2, width_ratios=(5, 2 + 0.95 * len(order)))
        _points(points, ratings, order, theme)
        _matrix(matrix, ratings, order, theme)
        points.set(xlabel=f"rating, points; {counted(evaluation.prompts, 'prompt')}")
        return png(figure)


def _points(axes: Axes, ratings: Ratings, order: list[str], theme: Theme) -> None:
    colour = colours(order, theme)
    for row, name in enumerate(order):
        rating = ratings.ratings[name]
        if rating.interval is not None:
            axes.plot([rating.interval.low, rating.interval.high], [row, row], color=theme.soft, linewidth=2)
        axes.plot([rating.value], [row], "D", color=colour[name], markersize=8)
        axes.annotate(
            number(rating.value, 0), (rating.value, row), (0, 8), textcoords="offset points", ha="center",
            fontweight="bold",
        )  # fmt: skip
    axes.axvline(0, color=theme.soft, linestyle=DASHED, linewidth=1, zorder=0)
    axes.set_yticks(range(len(order)), [short(name, 16) for name in order], color=theme.ink)
    axes.set(title="Bradley–Terry ratings", ylim=(len(order) - 0.5, -0.7))
    axes.grid(False, axis="y")
    axes.margins(x=0.12)


def _matrix(axes: Axes, ratings: Ratings, order: list[str], theme: Theme) -> None:
    shares = np.array([[100 * ratings.wins[a][b].value if a != b else np.nan for b in order] for a in order])
    axes.imshow(shares, cmap="RdBu", vmin=0, vmax=100, aspect="auto", alpha=0.75)
    for row, a in enumerate(order):
        for column, b in enumerate(order):
            if a != b:
                axes.text(column, row, told(ratings.wins[a][b]), ha="center", va="center", color=theme.ink)
    axes.set_xticks(range(len(order)), [short(name, 10) for name in order], color=theme.ink)
    axes.set_yticks(range(len(order)), [short(name, 10) for name in order], color=theme.ink)
    axes.tick_params(length=0)
    axes.set(title="Wins of the row against the column", xlabel="against")
    axes.grid(False)
