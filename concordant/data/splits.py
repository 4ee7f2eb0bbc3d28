"""``load_records`` makes train and test records for a stage from the data that ``--data`` names.

The split is by prompt. It is made over all records of the data and before they are converted for a stage. So SFT, the
reward model and RL hold out the same prompts.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar, cast

from concordant.config.data import DataConfig
from concordant.config.names import Responses
from concordant.core.counted import counted
from concordant.core.errors import UserError
from concordant.core.seeding import derive, python_stream
from concordant.core.visible import visible
from concordant.data import fields
from concordant.data.carried import EVERYTHING, NOTHING, TRUTHS, Wanted, names_in
from concordant.data.columns import IGNORE, check_mapped, column_names, displaced, option
from concordant.data.convert import CONVERSIONS, split_key
from concordant.data.dialogue import Drop, Messages
from concordant.data.folders import SETS
from concordant.data.recognise import Reading, read_records
from concordant.data.records import Demonstration, Pair, Prompt, Rating, Record
from concordant.data.rows import BadRows, Row
from concordant.data.sources import Made, Rows, open_source

R = TypeVar("R", bound=Record)
OnProgress = Callable[[int, int], None]  # bytes read, bytes in all

NAMES = {
    Pair: ("preference pairs", "two answers to a prompt: prompt + chosen + rejected"),
    Demonstration: ("answers to imitate", "an answer to each prompt: prompt + response, messages, or pairs"),
    Prompt: ("prompts", "a prompt a row, as prompt or at the head of messages or pairs"),
    Rating: ("rated answers", "an answer with a verdict: prompt + completion + label, or pairs"),
}


@dataclass(kw_only=True)
class Loaded(Generic[R]):
    train: list[R]
    test: list[R]
    dropped: Counter[str] = field(default_factory=Counter)  # dropped rows, by reason
    rows_read: int = 0  # dropped rows included
    formats: tuple[str, ...] = ()  # the recognised formats, or "pairs" for builtin data
    rows_used: int = 0  # rows_read minus dropped rows; one row may give several records, or several rows one record
    columns: dict[str, tuple[str, ...]] = field(default_factory=dict)  # "used", "carried along", "not used"
    notes: list[str] = field(default_factory=list)
    wanted_names: tuple[str, ...] = ()  # columns that a reward function could name

    @property
    def sides(self) -> tuple[list[R], list[R]]:
        return self.train, self.test

    def summary(self, what: str = "records") -> str:
        """One line such as '1,804 pairs (train 1,353, test 451); dropped 8: prompts differ 5, …', and the notes."""
        total = len(self.train) + len(self.test)
        line = f"{total:,} {what} (train {len(self.train):,}, test {len(self.test):,})"
        if self.dropped:
            line += f"; dropped {self.dropped.total():,}: {reasons(self.dropped)}"
        return "\n".join([line, *self.notes])


def reasons(dropped: Counter[str]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in dropped.most_common())


def load_records(
    config: DataConfig, want: type[R], seed: int, responses: Responses = "both", wanted: Wanted = EVERYTHING
) -> Loaded[R]:
    """Train and test records of type ``want`` (Pair, Demonstration, Prompt or Rating).

    ``seed`` draws the sample and the split. ``responses`` ("both" or "chosen") is for demonstrations made from pairs.
    Prompts keep the ``wanted`` columns; other records are learnt from as they are and keep none. Equal prompts are
    given once, unless their truth or a column that is wanted by name differs. Raises UserError if no record is left to
    train on.
    """
    wanted = wanted if want is Prompt else NOTHING
    held = load_all(config, seed, _sets_for(want, responses), wanted=wanted)
    dropped = Counter(held.dropped)
    train, test = (_converted(side, want, responses, dropped, wanted) for side in (held.train, held.test))
    if not train:
        name, need = NAMES[want]
        raise UserError(
            f"{config.path}: no {name} to train on. Rows read: {held.rows_read:,} as {', '.join(held.formats)}; "
            f"dropped: {reasons(dropped) or 'none'}\nexpected {need} (docs/data.md){_other_columns(held, config)}"
            f"{_learns_from_ratings(held, want)}"
        )
    return Loaded(
        train=train,
        test=test,
        dropped=dropped,
        rows_read=held.rows_read,
        formats=held.formats,
        rows_used=held.rows_used,
        columns=held.columns,
        notes=[*held.notes, *_imitated(held, want, responses)],
        wanted_names=held.wanted_names,
    )


def _imitated(held: Loaded[Record], want: object, responses: Responses) -> list[str]:
    if want is not Demonstration or responses != "both" or not any(isinstance(r, Pair) for r in held.train):
        return []
    return ["both answers of each pair are imitated, the rejected ones too; --responses chosen leaves these out"]


def _learns_from_ratings(held: Loaded[Record], want: object) -> str:
    is_rated = want is Pair and any(isinstance(record, Rating) for record in held.train)
    return (
        "\n`concordant dpo --loss kto` learns from rated answers; bco and apo_zero_unpaired do too" if is_rated else ""
    )


def _other_columns(held: Loaded[Record], config: DataConfig) -> str:
    names = held.columns.get("carried along", ())
    return f"; not read: {', '.join(names)} ({_as_response(names[0], config)})" if names else ""


def answers_not_learnt(held: Loaded[Record], config: DataConfig) -> list[str]:
    """A note if the data is prompts alone, beside a column whose name says that it holds their answers."""
    names = [name for name in TRUTHS if name in held.columns.get("carried along", ())]
    if not names or not all(isinstance(record, Prompt) for record in (*held.train, *held.test)):
        return []
    return [
        f"read as prompts alone: {names[0]} is kept for reward functions, and no answer is there to imitate "
        f"({_as_response(names[0], config)})"
    ]


def _as_response(name: str, config: DataConfig) -> str:
    return f"{option(column_names(config.columns), ('response', name))} reads {name} as response"


def _sets_for(want: type, responses: Responses) -> tuple[str, ...]:
    """The sets of a prepared folder that can be used. Chosen answers come from rm, because sft holds both answers."""
    answers = ("rm", "sft") if responses == "chosen" else ("sft", "rm")
    sets: dict[type, tuple[str, ...]] = {
        Pair: ("rm",),
        Demonstration: answers,
        Prompt: ("rl", "rm", "sft"),
        Rating: ("rm",),
    }
    return sets[want]


def _converted(
    records: list[Record], want: type[R], responses: Responses, dropped: Counter[str], wanted: Wanted
) -> list[R]:
    convert = CONVERSIONS[want]
    made: list[R] = []
    seen: set[tuple[Messages, str]] = set()
    for record in records:
        found = convert(record, responses)
        if isinstance(found, Drop):
            dropped[found] += 1
            continue
        for item in found:
            if isinstance(item, Prompt):  # several answers to a prompt are still one prompt, unless its reward differs
                key = item.messages, wanted.tells_apart(item.extra)
                if key in seen:
                    continue
                seen.add(key)
            made.append(cast(R, item))
    return made


def load_all(
    config: DataConfig,
    seed: int,
    sets: Sequence[str] = SETS,
    on_progress: OnProgress | None = None,
    wanted: Wanted = NOTHING,
) -> Loaded[Record]:
    """All records of the data without conversion, split by prompt or by the data's own split.

    ``wanted`` are the carried columns that the records keep. Raises UserError if the data is empty or if all its rows
    are dropped.
    """
    source = open_source(config.path, seed, sets, split=config.split, test=config.test)
    reader = _Reader(config, on_progress, wanted)
    notes = list(source.notes)
    if config.test_path:
        places = config.path, config.test_path
        if all(map(os.path.exists, places)) and os.path.samefile(*places):
            raise UserError(f"data.test_path {places[1]} is the training data itself; leave it empty to split the data")
        if source.test is not None:
            notes.append(f"{config.path}: its own test side is left out, since data.test_path is given")
        held_out = open_source(config.test_path, seed, sets)
        parts = [source.train, held_out.test or held_out.train]
    else:
        parts = [source.train] + ([source.test] if source.test is not None else [])
    sides = reader.read(parts)
    if not sides[0] or (config.test_path and not sides[1]):
        raise UserError(_nothing_left(config.test_path if sides[0] else config.path, reader))
    if len(sides) == 2:
        train, test = _sample_two(sides[0], sides[1], config.max_samples, seed)
        both = {split_key(record) for record in train} & {split_key(record) for record in test}
        if both:
            notes.append(f"{counted(len(both), 'prompt is', 'prompts are')} in train and in test")
    else:
        train, test = split_by_prompt(sample(sides[0], config.max_samples, seed), config.test_fraction, seed)
        if not test and config.test_fraction:
            notes.append("one prompt only: nothing is held out")
    return Loaded(
        train=train,
        test=test,
        dropped=reader.dropped(),
        rows_read=reader.rows,
        formats=tuple(sorted(reader.reading.formats)),
        rows_used=reader.reading.rows_used,
        columns=reader.columns(),
        notes=[*notes, *reader.unfit()],
        wanted_names=tuple(sorted(reader.reading.wanted_names)),
    )


def load_test(config: DataConfig, name: str, seed: int) -> list[Record]:
    """The held-out records of source ``name``: its test side, or all records if it has none.

    ``config`` gives the format and says what is done with bad rows.
    """
    source = open_source(name, seed)
    reader = _Reader(config, None)
    (records,) = reader.read([source.test or source.train])
    if not records:
        raise UserError(_nothing_left(name, reader))
    return records


def _nothing_left(name: str, reader: _Reader) -> str:
    dropped = reader.dropped()
    if not dropped:
        return f"{name}: no rows, the data is empty"
    return (
        f"{name}: all rows are dropped, {dropped.total():,}: {reasons(dropped)}\nwhat is dropped, and why: docs/data.md"
    )


class _Reader:
    """Reads the parts of a source into records, and counts rows, dropped rows and columns."""

    def __init__(self, config: DataConfig, on_progress: OnProgress | None, wanted: Wanted = NOTHING) -> None:
        self.reading = Reading(
            bad=BadRows(config.skip_bad_rows),
            format=config.format,
            columns=column_names(config.columns),
            pairs=config.pairs,
            merge_turns=config.merge_turns,
            wanted=wanted,
        )
        self.drops: Counter[str] = Counter()
        self.seen: set[str] = set()  # names of columns, as written in the files
        self.on_progress = on_progress or (lambda done, total: None)

    @property
    def rows(self) -> int:
        return self.reading.rows_used + self.dropped().total()

    def dropped(self) -> Counter[str]:
        return self.drops + self.reading.bad.counts

    def columns(self) -> dict[str, tuple[str, ...]]:
        """Every column of the input, by its use."""
        reading = self.reading
        theirs_of = {ours: theirs for theirs, ours in reading.columns.items() if ours != IGNORE}
        ignored = {theirs for theirs, ours in reading.columns.items() if ours == IGNORE}
        lost = reading.unfit.keys() - reading.wanted_names
        carried = reading.carried - reading.used - lost
        unused = (ignored & self.seen | lost) - reading.used - carried
        kinds = {"used": reading.used, "carried along": carried, "not used": unused}
        shown = {
            kind: [f"{theirs_of[name]} (as {name})" if name in theirs_of else name for name in names]
            for kind, names in kinds.items()
        }
        shown["not used"] += displaced(reading.columns, self.seen)
        return {kind: tuple(sorted(visible(n) for n in names)) for kind, names in shown.items() if names}

    def unfit(self) -> list[str]:
        return [
            f"column {visible(name)}: {count:,} values are left out, because they hold half of a surrogate pair or "
            f"more than {fields.DEEPEST} levels"
            for name, count in sorted(self.reading.unfit.items())
        ]

    def read(self, parts: Sequence[Rows | Made]) -> list[list[Record]]:
        total = sum(part.bytes for part in parts if isinstance(part, Rows))
        sides: list[list[Record]] = []
        before = 0
        for part in parts:
            if isinstance(part, Made):
                wanted, made = self.reading.wanted, part.make()
                sides.append([replace(record, extra=wanted.of(record.extra)) for record in made])
                self.reading.wanted_names |= names_in(record.extra for record in sides[-1])
                self.reading.formats.add(part.kind)
                self.reading.rows_used += len(sides[-1])
            else:
                sides.append(self._read_rows(part, before, total))
                before += part.bytes
        return sides

    def _read_rows(self, part: Rows, before: int, total: int) -> list[Record]:
        kept: list[Record] = []
        rows = part.read(self.reading.bad, lambda done: self.on_progress(before + done, total))
        for found in read_records(self._noted(rows), self.reading):
            if isinstance(found, Drop):
                self.drops[found] += 1
            else:
                kept.append(found)
        check_mapped(self.reading.columns, self.seen)
        return kept

    def _noted(self, rows: Iterator[Row]) -> Iterator[Row]:
        for row in rows:
            if self.reading.columns and not row.values.keys() <= self.seen:
                self.seen |= row.values.keys()
            yield row


def sample(records: list[Record], count: int, seed: int) -> list[Record]:
    """``count`` records drawn by ``seed``, in the order of the file; all records if ``count`` is 0.

    The draw for a larger count contains every record of the draw for a smaller one.
    """
    if not 0 < count < len(records):
        return records
    order = list(range(len(records)))
    python_stream(seed, "data/sample").shuffle(order)
    return [records[i] for i in sorted(order[:count])]


def _sample_two(train: list[Record], test: list[Record], count: int, seed: int) -> tuple[list[Record], list[Record]]:
    """``count`` records of both sides together, in proportion to their sizes, and at least one of each."""
    if not test or not 0 < count < len(train) + len(test):
        return sample(train, count, seed), test
    from_train = round(count * len(train) / (len(train) + len(test)))
    from_train = max(1, min(from_train, count - 1))
    return sample(train, from_train, seed), sample(test, max(1, count - from_train), seed)


def split_by_prompt(records: list[Record], fraction: float, seed: int) -> tuple[list[Record], list[Record]]:
    """Train and test records, in the order of the file. Test gets ``fraction`` of the distinct prompts, rounded.

    The choice of prompts depends on the seed and on their words, and not on the order of the rows. Each side gets at
    least one prompt if there are two or more.
    """
    prompts = {split_key(record) for record in records}
    count = round(len(prompts) * fraction)
    if fraction and len(prompts) > 1:
        count = max(1, min(count, len(prompts) - 1))
    held_out = set(sorted(prompts, key=lambda prompt: _rank(prompt, seed))[:count])
    sides: tuple[list[Record], list[Record]] = ([], [])
    for record in records:
        sides[split_key(record) in held_out].append(record)
    return sides


def _rank(prompt: Messages, seed: int) -> tuple[int, str]:
    words = repr([(message.role, message.content) for message in prompt])
    return derive(seed, "data/split", words), words
