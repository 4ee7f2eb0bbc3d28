"""The data card: a description of the data before a model is trained on it."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Literal

from concordant.core.counted import counted
from concordant.core.digits import percent
from concordant.core.visible import visible
from concordant.data.convert import answers_of, prompt_of, split_key
from concordant.data.dialogue import Messages
from concordant.data.records import Demonstration, Pair, Prompt, Record
from concordant.data.rows import printable

if TYPE_CHECKING:
    from rich.console import Console

CountTokens = Callable[[list[str]], list[int]]
COUNTED_AT_ONCE = 1024  # texts given to a tokenizer in one call
KINDS = {Pair: "preference pairs", Demonstration: "dialogues", Prompt: "prompts"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """The lengths of the texts of one column, in the unit of the card. All are 0 if there is no text."""

    mean: float
    median: float  # for an even number of texts, the mean of the middle two
    p95: int  # the smallest length that at least 95 % of the texts do not exceed (nearest rank)
    max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How many prompts of a given test set are in the data too."""

    name: str
    prompts: int  # distinct prompts of the test set
    shared: int  # how many of these prompts are in the data
    rows: int  # rows of the data with one of these prompts


@dataclass(frozen=True, slots=True)
class Labels:
    """How many labels one judge gave in one round to the answers of one policy."""

    round: int  # 0: pairs that no round made
    policy: str  # the model whose answers they are
    judge: str
    pairs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DataCard:
    source: str
    formats: tuple[str, ...]
    seed: int
    rows_read: int
    dropped: dict[str, int]  # rows by reason
    kinds: dict[str, int]  # records kept, by kind
    rows: dict[str, int]  # records kept, in "train" and in "test"
    prompts: dict[str, int]  # distinct prompts, in "train" and in "test"
    shared_prompts: int  # prompts that are in train and in test
    unit: Literal["words", "tokens"]
    lengths: dict[str, Lengths]  # of prompt, chosen, rejected, response
    duplicate_rows: int  # rows whose prompt and answers an earlier row has
    duplicate_prompts: int  # rows whose prompt an earlier row has
    longer_preferred: float | None  # accuracy of "prefer the longer", a tie counts half; None without pairs
    compared: Comparison | None = None
    written: dict[str, int] = field(default_factory=dict)  # rows of each file, if files were written
    rows_used: int = 0  # rows_read minus dropped rows
    columns: dict[str, tuple[str, ...]] = field(default_factory=dict)  # every column: used, carried along, not used
    notes: tuple[str, ...] = ()
    labels: tuple[Labels, ...] = ()  # of pairs that `concordant collect` labelled

    def to_json(self) -> str:
        return printable(json.dumps(asdict(self), indent=2, ensure_ascii=False)) + "\n"

    def sections(self) -> Iterator[tuple[str, list[tuple[str, ...]]]]:
        """The titles and tables of the terminal and of the Markdown page. The first row of a table is its head."""
        yield (
            "Rows",
            [
                ("", "rows", "distinct prompts"),
                *((side, f"{self.rows[side]:,}", f"{self.prompts[side]:,}") for side in self.rows),
            ],
        )
        if self.labels:
            rows = [(f"{x.round}", x.policy, x.judge, f"{x.pairs:,}") for x in self.labels]
            yield "Labels", [("round", "policy", "judge", "pairs"), *rows]
        if self.dropped:
            by_reason = sorted(self.dropped.items(), key=lambda item: -item[1])
            yield "Dropped", [("reason", "rows"), *((reason, f"{count:,}") for reason, count in by_reason)]
        yield (
            f"Length in {self.unit}",
            [
                ("", "mean", "median", "95 %", "longest"),
                *(
                    (name, f"{of.mean:.1f}", f"{of.median:g}", f"{of.p95:,}", f"{of.max:,}")
                    for name, of in self.lengths.items()
                ),
            ],
        )
        if self.columns:
            yield "Columns", [("", "columns"), *((kind, ", ".join(names)) for kind, names in self.columns.items())]
        yield "Worth a look", [("what", "found"), *self._findings()]
        if self.written:
            yield "Files", [("file", "rows"), *((name, f"{count:,}") for name, count in self.written.items())]

    def _findings(self) -> Iterator[tuple[str, str]]:
        yield "rows that repeat an earlier row", f"{self.duplicate_rows:,}"
        yield "rows whose prompt an earlier row has", f"{self.duplicate_prompts:,}"
        yield "prompts in train and in test", f"{self.shared_prompts:,}"
        if self.longer_preferred is not None:
            pairs = self.kinds.get(KINDS[Pair], 0)
            yield f'accuracy of "always prefer the longer" in {self.unit}', percent(self.longer_preferred, pairs)
        if self.compared is not None:
            c = self.compared
            yield f"prompts of {c.name} in the data", f"{c.shared:,} of {c.prompts:,} (in {c.rows:,} rows)"

    def headline(self) -> str:
        kept = ", ".join(f"{count:,} {kind}" for kind, count in self.kinds.items())
        read = f"{counted(self.rows_read, 'row')} read as {', '.join(self.formats)}"
        return f"{self.source}: {read}; kept {kept}; seed {self.seed}"

    def markdown(self) -> str:
        """The card as a Markdown page, with a heading and a table for each section."""
        lines = ["# Data card", "", _escape(self.headline())]
        for title, (head, *rows) in self.sections():
            lines += ["", f"## {title}", "", _table_row(head), _table_row(["---"] * len(head)), *map(_table_row, rows)]
        if self.notes:
            lines += ["", *(f"- {_escape(note)}" for note in self.notes)]
        return printable("\n".join(lines)) + "\n"

    def show(self, console: Console | None = None) -> None:
        """Print the card to the terminal."""
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        console = console or Console()
        console.print(Text(visible(self.headline())))
        for title, (head, *rows) in self.sections():
            table = Table(title=title, title_justify="left", title_style="bold")
            for index, column in enumerate(head):
                table.add_column(column, justify="right" if index else "left")
            for row in rows:
                table.add_row(*map(Text, row))
            console.print(table)
        for note in self.notes:
            console.print(Text(visible(note)))


def _escape(text: str) -> str:
    """``text`` without table bars and HTML, because names of files and columns come from outside."""
    return visible(text.replace("\n", " ")).replace("|", "\\|").replace("<", "&lt;")


def _table_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(_escape, cells)) + " |"


def lengths_of(counts: Sequence[int]) -> Lengths:
    if not counts:
        return Lengths(mean=0.0, median=0.0, p95=0, max=0)
    ordered = sorted(counts)
    middle = len(ordered) // 2
    median = ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
    p95 = ordered[math.ceil(0.95 * len(ordered)) - 1]
    return Lengths(mean=sum(ordered) / len(ordered), median=float(median), p95=p95, max=ordered[-1])


def _count_words(texts: list[str]) -> list[int]:
    return [len(text.split()) for text in texts]


def _count(texts: Iterator[str], counter: CountTokens) -> list[int]:
    counts: list[int] = []
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == COUNTED_AT_ONCE:
            counts += counter(batch)
            batch = []
    return counts + (counter(batch) if batch else [])


def longer_preferred(chosen: Sequence[int], rejected: Sequence[int]) -> float | None:
    """The share of pairs whose longer answer is the chosen one; equal lengths count half. None without pairs."""
    if not chosen:
        return None
    points = sum(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in zip(chosen, rejected, strict=True))
    return points / len(chosen)


def _column_counts(records: Sequence[Record], counter: CountTokens) -> dict[str, list[int]]:
    """The length of every record, by column. A prompt's length is the length of its messages' contents alone."""
    pairs = [record for record in records if isinstance(record, Pair)]
    others = [record for record in records if not isinstance(record, Pair)]
    columns = {
        "prompt": ("\n\n".join(m.content for m in prompt_of(record)) for record in records),
        "chosen": (pair.chosen for pair in pairs),
        "rejected": (pair.rejected for pair in pairs),
        "response": (answer for record in others for answer in answers_of(record)),
    }
    counts = {name: _count(texts, counter) for name, texts in columns.items()}
    return {name: found for name, found in counts.items() if found}


def make_card(
    train: Sequence[Record],
    test: Sequence[Record],
    *,
    source: str,
    seed: int,
    rows_read: int,
    formats: Sequence[str] = (),
    dropped: Counter[str] | None = None,
    count_tokens: CountTokens | None = None,
    compare_with: tuple[str, set[Messages]] | None = None,
    written: dict[str, int] | None = None,
    rows_used: int | None = None,
    columns: dict[str, tuple[str, ...]] | None = None,
    notes: Sequence[str] = (),
    labels: tuple[Labels, ...] = (),
) -> DataCard:
    """The card of ``train`` and ``test``. Lengths are in tokens if ``count_tokens`` is given, else in words.

    ``compare_with`` is the name of a test set and its prompts.
    """
    records = [*train, *test]
    sides = {"train": {split_key(r) for r in train}, "test": {split_key(r) for r in test}}
    everything = sides["train"] | sides["test"]
    counts = _column_counts(records, count_tokens or _count_words)
    distinct_rows = {(prompt_of(record), answers_of(record)) for record in records}
    compared = None
    if compare_with is not None:
        name, prompts = compare_with
        hits = sum(split_key(record) in prompts for record in records)
        compared = Comparison(name=name, prompts=len(prompts), shared=len(prompts & everything), rows=hits)
    kinds = Counter(KINDS.get(type(record), "rated answers") for record in records)
    return DataCard(
        source=source,
        formats=tuple(formats),
        seed=seed,
        rows_read=rows_read,
        dropped={str(reason): count for reason, count in (dropped or {}).items()},
        kinds=dict(kinds),
        rows={"train": len(train), "test": len(test)},
        prompts={side: len(prompts) for side, prompts in sides.items()},
        shared_prompts=len(sides["train"] & sides["test"]),
        unit="tokens" if count_tokens else "words",
        lengths={name: lengths_of(found) for name, found in counts.items()},
        duplicate_rows=len(records) - len(distinct_rows),
        duplicate_prompts=len(records) - len(everything),
        longer_preferred=longer_preferred(counts.get("chosen", []), counts.get("rejected", [])),
        compared=compared,
        written=written or {},
        rows_used=rows_read - (dropped or Counter()).total() if rows_used is None else rows_used,
        columns=columns or {},
        notes=tuple(notes),
        labels=labels,
    )
