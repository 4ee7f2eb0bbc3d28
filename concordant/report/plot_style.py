"""The style of all pictures: colours that colour-blind readers can distinguish, no frame, units on every axis.

Every picture is drawn twice, for a light and for a dark page.
Figures are made without pyplot, because pyplot needs a display or a global setting.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from concordant.report.blocks import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DASHED = (0, (4, 3))
STAGES = ("base", "sft", "reward", "best_of_n", "dpo", "ppo")


@dataclass(frozen=True, slots=True, kw_only=True)
class Theme:
    """The colours of a picture, for one kind of page."""

    page: str  # the background
    ink: str  # text and marks that must be seen
    soft: str  # axes, ticks and what is less important
    grid: str
    stages: tuple[str, ...]  # one for each of STAGES
    palette: tuple[str, ...]  # for other names, in order


# Okabe & Ito's palette without yellow, which is hard to see on white.
LIGHT = Theme(
    page="#ffffff",
    ink="#1d2430",
    soft="#5b6472",
    grid="#e3e7ed",
    stages=("#767676", "#0072B2", "#CC79A7", "#E69F00", "#009E73", "#D55E00"),
    palette=("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#7A5195", "#8C6D31"),
)
# The same hues, light enough for the dark page of report/html_page.py.
DARK = Theme(
    page="#14181e",
    ink="#e4e8ee",
    soft="#9aa5b4",
    grid="#2b323d",
    stages=("#a3a3a3", "#4fa8e0", "#e39cc3", "#f0b13a", "#2fc79b", "#ff8a4c"),
    palette=("#4fa8e0", "#f0b13a", "#2fc79b", "#ff8a4c", "#e39cc3", "#9bd5f7", "#b692d6", "#c9a35f"),
)


def _style(theme: Theme) -> Any:
    return {
        "font.family": "DejaVu Sans",  # comes with matplotlib, so pictures are the same on every machine
        "font.size": 11,
        "axes.titlesize": 12,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.titlepad": 10,
        "axes.facecolor": theme.page,
        "axes.labelcolor": theme.soft,
        "axes.edgecolor": theme.soft,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": theme.grid,
        "grid.linewidth": 0.8,
        "text.color": theme.ink,
        "xtick.color": theme.soft,
        "ytick.color": theme.soft,
        "legend.frameon": False,
        "lines.linewidth": 2.0,
        "text.parse_math": False,  # a name may contain $
    }


def colours(names: Sequence[str], theme: Theme) -> dict[str, str]:
    """A colour for each name: the fixed colours of the stages, and unused colours for other names, in order."""
    usual = dict(zip(STAGES, theme.stages, strict=True))
    taken = {name: usual[name] for name in names if name in usual}
    free = [c for c in theme.palette if c not in taken.values()] or list(theme.palette)
    others = [name for name in names if name not in usual]
    return taken | {name: free[i % len(free)] for i, name in enumerate(others)}


def short(name: str, most: int = 22) -> str:
    """A name that fits a picture, on one line."""
    name = plain(name).replace("\n", " ").strip()
    return name if len(name) <= most else name[: most - 1] + "…"


@contextmanager
def styled(width: float, height: float, theme: Theme) -> Iterator[Figure]:
    """Give the block a figure of this size in inches, in the project's style."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(_style(theme)), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a name in another script shows as boxes
        figure = Figure(figsize=(width, height), dpi=130, facecolor=theme.page, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure


def png(figure: Figure) -> bytes:
    """The picture as a file. ``Figure.savefig`` would draw twice, the first time for its own layout alone."""
    file = io.BytesIO()
    figure.canvas.print_png(file, metadata={"Software": None})  # type: ignore[attr-defined]
    return file.getvalue()


def only_y_grid(axes: Axes) -> None:
    axes.grid(False, axis="x")


def whole_steps(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
