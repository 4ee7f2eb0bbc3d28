"""What a format is: its columns, and how its rows are read. ``data/formats.py`` lists the formats."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from concordant.config.names import DataFormat, RankedPairs
from concordant.data.read_dialogues import Found
from concordant.data.read_rankings import Ranking
from concordant.data.records import Record
from concordant.data.rows import BadRows, Row

Gives = Literal["pair", "pairs", "dialogue", "rated answer", "prompt"]
ReadRow = Callable[[Row], Found | Ranking | list[Ranking | Record]]
ReadTogether = Callable[[Sequence[Row], BadRows, RankedPairs], list[tuple[Row, Found]]]

CONTEXT_COLUMNS = ("system", "system_prompt", "tools")  # every format reads these where they are there


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    name: DataFormat
    gives: Gives
    columns: tuple[str, ...]  # all must be there; "a|b": one of the two
    optional: tuple[str, ...] = ()  # used where they are there
    harmless: tuple[str, ...] = ()  # columns that change what is learnt elsewhere, and here say something else
    reads_all: str = ""  # the column of whose names all are read, and not only the first that is there
    read: ReadRow | None = None
    read_together: ReadTogether | None = None  # instead of ``read``, where rows of a file belong together
    accepts: Callable[[Mapping[str, Any]], bool] = lambda values: True  # a look at one row's values
    example: dict[str, Any] = field(default_factory=dict)
    more: tuple[dict[str, Any], ...] = ()  # the rows that belong to the example, where one row says nothing

    def lacks(self, found: Container[str]) -> list[str]:
        return [column for column in self.columns if not any(name in found for name in column.split("|"))]

    @property
    def alternatives(self) -> list[list[str]]:
        """The names of each column of which one is read, where there are several.

        A name that belongs to two columns is read by what stands beside it.
        """
        split = [column.split("|") for column in self.columns if column != self.reads_all]
        counts = Counter(name for names in split for name in names)
        return [names for names in split if len(names) > 1 and all(counts[name] == 1 for name in names)]

    @property
    def names(self) -> frozenset[str]:
        """Every column that the format may use."""
        return frozenset(n for column in (*self.columns, *self.optional, *CONTEXT_COLUMNS) for n in column.split("|"))
