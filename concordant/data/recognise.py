"""Which format a file has, and its rows as records.

No column is passed over in silence: what is used, carried along or not used goes to the books, and a column whose name
can change what is learnt stops the command where its format does not use it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, groupby, islice
from typing import Any

from concordant.config.names import DataFormat, RankedPairs
from concordant.data import fields
from concordant.data.carried import NOTHING, TRUTHS, VERL_COLUMNS, Wanted, carried, names_in
from concordant.data.columns import NEAR, refuse_two, refuse_unused, renamed, side_by_side
from concordant.data.dialogue import Drop, Messages, merge_turns
from concordant.data.format import CONTEXT_COLUMNS, Format
from concordant.data.formats import FORMATS, KNOWN_COLUMNS
from concordant.data.read_dialogues import Found
from concordant.data.read_rankings import Ranking, pairs_of
from concordant.data.records import Demonstration, Message, Pair, Prompt, Rating, Record
from concordant.data.rows import BadRow, BadRows, Row, printable

Outcome = Record | Drop | Ranking
SAMPLE = 16  # first rows of a file whose columns decide its format


@dataclass(kw_only=True)
class Reading:
    """How rows are read, and the books of what became of them and of their columns."""

    bad: BadRows
    format: DataFormat = "auto"
    columns: Mapping[str, str] = field(default_factory=dict)  # our name of a column by the file's name of it
    pairs: RankedPairs = "best_worst"
    merge_turns: bool = False
    wanted: Wanted = NOTHING  # which carried columns the records keep
    formats: set[str] = field(default_factory=set)
    rows_used: int = 0
    used: set[str] = field(default_factory=set)
    carried: set[str] = field(default_factory=set)
    wanted_names: set[str] = field(default_factory=set)  # that a reward function could have wanted
    unfit: Counter[str] = field(default_factory=Counter)  # values of each column that no file of ours can hold


def recognise(sample: list[Row], given: Mapping[str, str] | None = None) -> Format:
    """The format of a file whose first rows are ``sample`` (at least one row).

    Raises BadRow naming the missing column and the closest format, also where a simpler format would fit
    but a column looks like one of a richer format misspelt: half-recognised data must not train. ``given`` are the
    names of --data.columns.
    """
    found = {name for row in sample for name, value in row.values.items() if value is not None}
    match = next(
        (f for f in FORMATS.values() if not f.lacks(found) and any(f.accepts(row.values) for row in sample)), None
    )
    if match is None or match.gives not in ("pair", "pairs"):
        advice = side_by_side(sample[0], given or {})
        if advice:
            raise BadRow(fields.MISSING, f"{sample[0].where}: {advice}{_as_it_stands(match)}")
    if match is None:
        if not any(_closeness(f, found) for f in FORMATS.values()):
            raise BadRow(fields.MISSING, _nothing_known(sample))
        closest = max(FORMATS.values(), key=lambda f: (_closeness(f, found), -len(f.lacks(found)), len(f.columns)))
        column = next(iter(closest.lacks(found)), closest.columns[0]).split("|")[0]
        if not closest.lacks(found):  # chosen + rejected that are neither HH text nor messages
            closest, column = FORMATS["preference"], "prompt"
        raise fields.missing(_example(sample, column), column, _shown(closest))
    half_there = [f for f in FORMATS.values() if _half_there(f, match, found)]
    richer = max(half_there, key=lambda f: _closeness(f, found), default=None)
    if richer is not None:
        column = richer.lacks(found)[0].split("|")[0]
        raise fields.missing(_example(sample, column), column, _shown(richer), _as_it_stands(match))
    return match


def _as_it_stands(match: Format | None) -> str:
    return f"\nif the data is {' + '.join(_shown(match))} as it stands: --data.format={match.name}" if match else ""


def _nothing_known(sample: list[Row]) -> str:
    """What is said of a file of which no column has a value and looks like one of a format: then none is closest."""
    row = sample[0]
    names = printable(", ".join(row.values)) or "no columns"
    what = "every value is null" if all(v is None for r in sample for v in r.values.values()) else "no known column"
    header = " The first line of a CSV names the columns." if row.file.removesuffix(".gz").endswith(".csv") else ""
    return f"{row.where}: {what} (found: {names}).{header}\nexpected one of the formats in docs/data.md"


def _shown(f: Format) -> list[str]:
    """The columns of a format for a message: of several names that would do, the first."""
    return [column.split("|")[0] for column in f.columns]


def _example(sample: list[Row], column: str) -> Row:
    return next((row for row in sample if row.values.get(column) is None), sample[0])


def _near(column: str, found: set[str]) -> float:
    """How much of ``column`` is there: 1 for an exact name, the similarity for a near one, else 0."""
    return max(_near_name(name, found) for name in column.split("|"))


def _near_name(name: str, found: set[str]) -> float:
    if name in found:
        return 1.0
    ratios = (fields.likeness(name, other) for other in found if other not in KNOWN_COLUMNS)
    best = max(ratios, default=0.0)
    return best if best >= NEAR else 0.0


def _closeness(candidate: Format, found: set[str]) -> float:
    return sum(_near(column, found) for column in candidate.columns) / len(candidate.columns)


def _half_there(candidate: Format, match: Format, found: set[str]) -> bool:
    """True if ``candidate`` shares a column with ``match``, lacks one, and has (nearly) one ``match`` does not use.

    A misspelt name that is most like a column that ``match`` uses tells nothing, nor does the id of a known column.
    Pairs are the most that data can be, so beside them only a misspelt name counts: further columns of pairs are
    further information.
    """
    used = match.names & found
    own = [column for column in candidate.columns if not used & set(column.split("|"))]
    if len(own) == len(candidate.columns) or not candidate.lacks(found):
        return False
    strange = {
        name
        for name in found - KNOWN_COLUMNS - set(TRUTHS)
        if max(KNOWN_COLUMNS, key=lambda k: fields.likeness(k, name)) not in used
        and name.removesuffix("_id") not in KNOWN_COLUMNS
    }
    telling = strange if match.gives in ("pair", "pairs") else (found & KNOWN_COLUMNS) | strange
    return any(_near(column, telling) for column in own)


def read_records(rows: Iterator[Row], reading: Reading) -> Iterator[Record | Drop]:
    """Each row as a record or several, or the reason it is dropped.

    The format is settled file by file. Bad rows go to ``reading.bad``. Raises UserError for a file no format fits,
    even when bad rows are skipped.
    """
    for _, group in groupby(rows, key=lambda row: row.file):
        named = (renamed(row, reading.columns) for row in group)
        head = list(islice(named, SAMPLE))
        chosen = recognise(head, reading.columns) if reading.format == "auto" else FORMATS[reading.format]
        reading.formats.add(chosen.name)
        good = _checked(chain(head, named), chosen, reading)
        made: Iterable[tuple[Row, Found | None]]
        if chosen.read_together is not None:
            made = chosen.read_together(list(good), reading.bad, reading.pairs)
        else:
            made = ((row, None) for row in good)
        for row, found in made:
            try:
                yield from _finished(row, chosen.read(row) if chosen.read else found or [], chosen, reading)
            except BadRow as error:
                reading.bad.report(error.reason, str(error))


def _checked(rows: Iterator[Row], chosen: Format, reading: Reading) -> Iterator[Row]:
    """The rows that have what the format needs, their columns in the books."""
    known: dict[frozenset[str], None] = {}
    is_prompt, alternatives = chosen.gives == "prompt", chosen.alternatives
    read_names, reads_as = chosen.names | set(chosen.harmless), f"{chosen.name} ({' + '.join(_shown(chosen))})"
    for row in rows:
        try:
            absent = chosen.lacks(row.values)
            if absent:
                raise fields.missing(row, absent[0].split("|")[0], _shown(chosen))
            refuse_unused(row, read_names, is_prompt, reads_as, reading.columns)
            if not is_prompt:
                refuse_two(row, alternatives, reading.columns)
        except BadRow as error:
            reading.bad.report(error.reason, str(error))
            continue
        names = frozenset(row.values)
        if names not in known:
            known[names] = None
            doubles = {n for group in alternatives for n in [n for n in group if row.values.get(n) is not None][1:]}
            read = names & (chosen.names - set(VERL_COLUMNS)) - doubles
            reading.used |= read
            reading.carried |= names - read
        yield row


def _finished(
    row: Row, found: Outcome | Sequence[Outcome], chosen: Format, reading: Reading
) -> Iterator[Record | Drop]:
    """What a reader made of a row, with what every format shares: pairs of rankings, system, tools, columns, place."""
    items = found if isinstance(found, Sequence) and not isinstance(found, Drop) else [found]
    records: list[Record] = []
    dropped: list[Drop] = []
    extra: dict[str, Any] | None = None
    for item in items:
        made = pairs_of(item, reading.pairs) if isinstance(item, Ranking) else item
        each: Record | Drop
        for each in made if isinstance(made, list) else [made]:
            if isinstance(each, Drop):
                dropped.append(each)
            else:
                extra = _extra(row, chosen, reading) if extra is None else extra
                records.append(replace(_with_context(row, each, reading), where=row.where, extra=extra))
    if records or not dropped:
        reading.rows_used += 1
        yield from records
    else:
        yield dropped[0]


def _with_context(row: Row, record: Record, reading: Reading) -> Record:
    values = row.values
    if any(values.get(name) for name in CONTEXT_COLUMNS):
        record = _with_system(row, record)
        tools = fields.tools(row)
        record = record if tools is None else replace(record, tools=tools)
    if isinstance(record, Demonstration) and values.get("reasoning_content"):
        thought = fields.text(row, "reasoning_content")
        last = replace(record.messages[-1], reasoning_content=thought)
        record = replace(record, messages=(*record.messages[:-1], last))
    return with_merged_turns(record) if reading.merge_turns else record


def _extra(row: Row, chosen: Format, reading: Reading) -> dict[str, Any]:
    """The columns that the records of a row keep."""
    if not reading.wanted:
        return {}
    extra, unfit = carried(row, chosen.names, reading.wanted)
    reading.unfit.update(unfit)
    reading.wanted_names |= names_in([extra])
    return reading.wanted.of(extra)


def _with_system(row: Row, record: Record) -> Record:
    written = [fields.text(row, name) for name in ("system", "system_prompt")]
    system = next((text for text in written if text.strip()), "")
    if not system:
        return record
    before = _messages_of(record)
    if isinstance(record, Demonstration) and record.first_response == 0:
        raise BadRow(fields.WRONG_TYPE, f'{row.where}: a "system" column beside text without a question')
    if before and before[0].role == "system":
        if before[0].content.strip() == system.strip():
            return record
        raise BadRow(fields.WRONG_TYPE, f'{row.where}: a "system" column and another system message in the dialogue')
    return _with_messages(record, (Message("system", system), *before), 1)


def _messages_of(record: Record) -> Messages:
    return record.prompt if isinstance(record, Pair | Rating) else record.messages


def _with_messages(record: Record, messages: Messages, more: int) -> Record:
    if isinstance(record, Demonstration):
        return replace(record, messages=messages, first_response=record.first_response + more)
    return replace(record, messages=messages) if isinstance(record, Prompt) else replace(record, prompt=messages)


def with_merged_turns(record: Record) -> Record:
    """The record with neighbouring messages of one role joined."""
    if isinstance(record, Demonstration):  # apart, so that the first answer to learn stays a message of its own
        before = merge_turns(record.messages[: record.first_response])
        return replace(
            record,
            messages=(*before, *merge_turns(record.messages[record.first_response :])),
            first_response=len(before),
        )
    messages = merge_turns(_messages_of(record))
    return _with_messages(record, messages, 0)
