"""Prints the table of an evaluation on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from concordant.core.counted import counted
from concordant.evaluation.records import Evaluation
from concordant.report.blocks import plain
from concordant.report.contents import shown_columns, survival_line, unknown_kls
from concordant.report.headline import headline

if TYPE_CHECKING:
    from rich.console import Console

# The most important columns come first. The terminal shows as many as fit its width; the report shows all.
BY_IMPORTANCE = (
    "gold",
    "judge",
    "win rate",
    "reward",
    "KL",
    "length",
    "ends",
    "perplexity",
    "distinct-2",
    "repetition",
)
PADDING = 2  # characters at the right side of a column
BETWEEN = PADDING + 1  # characters between two columns: rich adds one


def print_table(evaluation: Evaluation, console: Console | None = None) -> None:
    """Print the policies, the result in one sentence, and how much of each gain survives.

    Names are printed as plain text, so that rich markup and control codes in a name have no effect.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = console or Console()
    rows = _rows(evaluation, console.width)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, PADDING, 0, 0), pad_edge=False, show_edge=False)
    for i, name in enumerate(rows[0]):
        table.add_column(name, justify="right" if i else "left", no_wrap=i > 0, overflow="fold")
    for row in rows[1:]:
        table.add_row(*map(Text, row))
    console.print(table)
    console.print(
        Text(
            f"* baseline; {counted(evaluation.prompts, 'held-out prompt')}; brackets: 95 % intervals over prompts",
            style="dim",
        )
    )
    for sentence in unknown_kls(evaluation):
        console.print(Text(_line(sentence), style="dim"))
    console.print(Text(_line(headline(evaluation)), style="bold"))
    for policy, by_scorer in evaluation.survival.items():
        for scorer, survival in by_scorer.items():
            console.print(Text("  " + _line(survival_line(policy, scorer, survival))))


def _rows(evaluation: Evaluation, width: int) -> list[list[str]]:
    """A header and one line for each policy, with the most important columns that fit in ``width`` characters."""
    names = [_line(name) + (" *" if name == evaluation.baseline else "") for name in evaluation.policies]
    rows = [["policy"], *([name] for name in names)]
    free = width - _widest(["policy", *names])
    shown = shown_columns(evaluation)
    for column in sorted((c for c in shown if c.name in BY_IMPORTANCE), key=lambda c: BY_IMPORTANCE.index(c.name)):
        cells = [column.name, *(column.cell(s) for s in evaluation.policies.values())]
        free -= _widest(cells) + BETWEEN
        if free < 0:
            break
        for row, cell in zip(rows, cells, strict=True):
            row.append(cell)
    return rows


def _widest(cells: Sequence[str]) -> int:
    from rich.cells import cell_len

    return max(cell_len(cell) for cell in cells)


def _line(text: str) -> str:
    return plain(text).replace("\n", " ").replace("\t", " ")
