"""The style of all pictures: colours that colour-blind readers can distinguish, no frame, units on every axis.

Figures are made without pyplot, because pyplot needs a display or a global setting.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from concordant.report.blocks import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito's palette without yellow, which is hard to see on white.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#7A5195", "#8C6D31")
USUAL = {
    "base": "#767676",
    "sft": "#0072B2",
    "reward": "#CC79A7",
    "best_of_n": "#E69F00",
    "dpo": "#009E73",
    "ppo": "#D55E00",
}
INK, SOFT, GRID = "#1d2430", "#5b6472", "#e3e7ed"
DASHED = (0, (4, 3))

_STYLE: Any = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so pictures are the same on every machine
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.labelcolor": SOFT,
    "axes.edgecolor": SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "legend.frameon": False,
    "lines.linewidth": 2.0,
    "text.parse_math": False,  # a name may contain $
}


def colours(names: Sequence[str]) -> dict[str, str]:
    """A colour for each name: the fixed colours of the stages, and unused colours for other names, in order."""
    taken = {name: USUAL[name] for name in names if name in USUAL}
    free = [c for c in PALETTE if c not in taken.values()] or list(PALETTE)
    others = [name for name in names if name not in USUAL]
    return taken | {name: free[i % len(free)] for i, name in enumerate(others)}


def short(name: str, most: int = 22) -> str:
    """A name that fits a picture, on one line."""
    name = plain(name).replace("\n", " ").strip()
    return name if len(name) <= most else name[: most - 1] + "…"


@contextmanager
def styled(width: float, height: float) -> Iterator[Figure]:
    """Give the block a figure of this size in inches, in the project's style."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a name in another script shows as boxes
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure


def save(figure: Figure, path: Path) -> Path:
    figure.savefig(path, dpi=130, facecolor="white", metadata={"Software": None})
    return path


def only_y_grid(axes: Axes) -> None:
    axes.grid(False, axis="x")


def whole_steps(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
