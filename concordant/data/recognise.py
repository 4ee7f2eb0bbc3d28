"""Which format a file has, and its rows as records.

No column is passed over in silence: what is used, carried along or not used goes to the books, and a column whose name
can change what is learnt stops the command where its format does not use it.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import chain, groupby, islice
from typing import Any

from concordant.config.names import DataFormat, RankedPairs
from concordant.core.errors import UserError, nearest
from concordant.data import fields
from concordant.data.carried import NOTHING, TRUTHS, VERL_COLUMNS, Wanted, carried, names_in
from concordant.data.dialogue import Drop, Messages, merge_turns
from concordant.data.formats import CONTEXT_COLUMNS, FORMATS, KNOWN_COLUMNS, Format
from concordant.data.read_dialogues import Found
from concordant.data.read_rankings import Ranking, pairs_of
from concordant.data.records import Demonstration, Message, Pair, Prompt, Rating, Record
from concordant.data.rows import BadRow, BadRows, Row

Outcome = Record | Drop | Ranking
SAMPLE = 16  # first rows of a file whose columns decide its format
NEAR = 0.8  # difflib similarity above which an unknown column is taken for a slip of the pen
IGNORE = "ignore"  # the name that --data.columns gives to a column that is to be left alone

# Columns that change what is learnt: where a file's format does not use one, nobody may be left to find out later.
# Verdicts on an answer mean nothing beside a prompt alone: there they are columns for a reward function.
VERDICTS = {
    "weight", "train", "label", "labels", "kto_tag", "helpfulness", "rating", "ratings", "score", "overall_score",
    "rank", "preference", "overall_preference", "preference_strength", "winner", "winner_model_a",
    "better_response_id",
}  # fmt: skip
MEANINGFUL = VERDICTS | {
    "system", "system_prompt", "tools", "reasoning_content", "history", "rejected_response", "rejected_messages",
    "role", "parent_id", "images", "image", "audios", "videos",
}  # fmt: skip


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


def column_names(mappings: Sequence[str]) -> dict[str, str]:
    """``["prompt=question,system=sys"]`` as ``{"question": "prompt", "sys": "system"}``."""
    names: dict[str, str] = {}
    for part in (part.strip() for mapping in mappings for part in mapping.split(",")):
        ours, equals, theirs = part.partition("=")
        if not (ours and equals and theirs):
            raise UserError(f'data.columns: "{part}" is not NAME=COLUMN, e.g. prompt=question')
        if theirs in names or (ours in names.values() and ours != IGNORE):
            raise UserError(f'data.columns: "{theirs if theirs in names else ours}" stands twice')
        names[theirs] = ours
    return names


def _renamed(row: Row, names: Mapping[str, str]) -> Row:
    """The row under the names that --data.columns gives; a column that loses its name to another is left out."""
    if not names:
        return row
    taken = set(names.values())
    kept = {name: value for name, value in row.values.items() if name not in names and name not in taken}
    given = {ours: row.values[theirs] for theirs, ours in names.items() if theirs in row.values and ours != IGNORE}
    return replace(row, values=given | kept)


def recognise(sample: list[Row]) -> Format:
    """The format of a file whose first rows are ``sample`` (at least one row).

    Raises BadRow naming the missing column and the closest format, also where a simpler format would fit
    but a column looks like one of a richer format misspelt: half-recognised data must not train.
    """
    found = {name for row in sample for name, value in row.values.items() if value is not None}
    match = next(
        (f for f in FORMATS.values() if not f.lacks(found) and any(f.accepts(row.values) for row in sample)), None
    )
    if match is None:
        closest = max(FORMATS.values(), key=lambda f: (_closeness(f, found), -len(f.lacks(found)), len(f.columns)))
        column = next(iter(closest.lacks(found)), closest.columns[0]).split("|")[0]
        if not closest.lacks(found):  # chosen + rejected that are neither HH text nor messages
            closest, column = FORMATS["preference"], "prompt"
        raise fields.missing(_example(sample, column), column, _shown(closest))
    half_there = [f for f in FORMATS.values() if _half_there(f, match, found)]
    richer = max(half_there, key=lambda f: _closeness(f, found), default=None)
    if richer is not None:
        column = richer.lacks(found)[0].split("|")[0]
        hint = f"\nif the data is {' + '.join(_shown(match))} as it stands: --data.format={match.name}"
        raise fields.missing(_example(sample, column), column, _shown(richer), hint)
    return match


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
    ratios = (_likeness(name, other) for other in found if other not in KNOWN_COLUMNS)
    best = max(ratios, default=0.0)
    return best if best >= NEAR else 0.0


@lru_cache(maxsize=8192)
def _likeness(known: str, column: str) -> float:
    return difflib.SequenceMatcher(None, known, column[:100]).ratio()


def _closeness(candidate: Format, found: set[str]) -> float:
    return sum(_near(column, found) for column in candidate.columns) / len(candidate.columns)


def _half_there(candidate: Format, match: Format, found: set[str]) -> bool:
    """True if ``candidate`` shares a column with ``match``, lacks one, and has (nearly) one ``match`` does not use.

    A misspelt name that is most like a column that ``match`` uses tells nothing. Pairs are the most that data can be,
    so beside them only a misspelt name counts: further columns of pairs are further information.
    """
    used = match.names & found
    own = [column for column in candidate.columns if not used & set(column.split("|"))]
    if len(own) == len(candidate.columns) or not candidate.lacks(found):
        return False
    strange = {
        name
        for name in found - KNOWN_COLUMNS - set(TRUTHS)
        if max(KNOWN_COLUMNS, key=lambda k: _likeness(k, name)) not in used
    }
    telling = strange if match.gives in ("pair", "pairs") else (found & KNOWN_COLUMNS) | strange
    return any(_near(column, telling) for column in own)


def read_records(rows: Iterator[Row], reading: Reading) -> Iterator[Record | Drop]:
    """Each row as a record or several, or the reason it is dropped.

    The format is settled file by file. Bad rows go to ``reading.bad``. Raises UserError for a file no format fits,
    even when bad rows are skipped.
    """
    for _, group in groupby(rows, key=lambda row: row.file):
        renamed = (_renamed(row, reading.columns) for row in group)
        head = list(islice(renamed, SAMPLE))
        chosen = recognise(head) if reading.format == "auto" else FORMATS[reading.format]
        reading.formats.add(chosen.name)
        good = _checked(chain(head, renamed), chosen, reading)
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
    for row in rows:
        try:
            absent = chosen.lacks(row.values)
            if absent:
                raise fields.missing(row, absent[0].split("|")[0], _shown(chosen))
            _refuse_meaningful(row, chosen)
        except BadRow as error:
            reading.bad.report(error.reason, str(error))
            continue
        names = frozenset(row.values)
        if names not in known:
            known[names] = None
            read = names & (chosen.names - set(VERL_COLUMNS))
            reading.used |= read
            reading.carried |= names - read
        yield row


def _refuse_meaningful(row: Row, chosen: Format) -> None:
    names = chosen.names
    meaningful = MEANINGFUL - VERDICTS | {"context"} if chosen.gives == "prompt" else MEANINGFUL
    for name in row.values.keys() & meaningful - set(chosen.harmless):
        value = row.values[name]
        if name not in names and value is not None and value != "" and value != []:
            raise BadRow(
                fields.UNUSED,
                f'{row.where}: the column "{name}" can change what is learnt, and data read as {chosen.name} '
                f"({' + '.join(_shown(chosen))}) does not use it.\n"
                f"To leave it alone: --data.columns {IGNORE}={name}; to read it as another column: "
                f"--data.columns NAME={name}; formats: docs/data.md",
            )


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


def check_mapped(names: Mapping[str, str], seen: set[str]) -> None:
    """Raise UserError for a column that --data.columns names and that no row has."""
    for theirs in names:
        if theirs not in seen:
            raise UserError(f'data.columns: no column "{theirs}" in the data.{nearest(theirs, seen)}')
