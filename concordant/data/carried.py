"""Columns that are carried along: a format does not read them, a reward function may name them.

Records keep such columns in ``extra``, as the file has them, and only those that somebody wants: what no function of a
run sees takes no memory and is no input of the run.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from concordant.data import fields
from concordant.data.json_text import parsed
from concordant.data.rows import BadRow, Row

VERL_COLUMNS = ("data_source", "ability", "reward_model", "extra_info")
TRUTHS = ("ground_truth", "answer")  # columns that hold what a rule compares an answer with, the first one first
PLACE = {"split", "index"}  # keys of verl's extra_info that say where a row stands; they are no part of a prompt


@dataclass(frozen=True, slots=True)
class Wanted:
    """The columns that somebody wants to see."""

    names: frozenset[str] = frozenset()
    every: bool = False  # all that are carried along, beside ``names``

    def __bool__(self) -> bool:
        return self.every or bool(self.names)

    def __or__(self, other: Wanted) -> Wanted:
        return Wanted(self.names | other.names, self.every or other.every)

    def of(self, extra: Mapping[str, Any]) -> dict[str, Any]:
        """The wanted part of ``extra``: all of it, or the named values by their names, wherever they stand.

        The names are sorted, since a set has another order in each process and records are compared by their text.
        """
        return dict(extra) if self.every else {n: value(extra, n) for n in sorted(self.names) if has(extra, n)}

    def tells_apart(self, extra: Mapping[str, Any]) -> str:
        """Equal for two rows of one prompt that are the same task: in the truth, and in every column that is named."""
        names = sorted({*self.names, *(("reward_model", "ground_truth") if self.every else ())})
        return repr([_without_place(name, value(extra, name)) for name in names])


NOTHING, EVERYTHING = Wanted(), Wanted(every=True)


def carried(row: Row, read: Collection[str], wanted: Wanted) -> tuple[dict[str, Any], list[str]]:
    """The columns of a row that can be wanted, and the names of those whose value no file of ours can hold.

    ``read`` are the columns that the row's format reads; they can be wanted by name only. A null is no value.
    """
    names = [name for name in row.values if name not in VERL_COLUMNS and (name not in read or name in wanted.names)]
    extra, unfit = verl_columns(row), []
    for name in names:
        if row.values[name] is None:
            continue
        try:
            fields.as_text(row, name, name)
            fields.check_value(row, name, row.values[name])
        except BadRow:
            unfit.append(name)
        else:
            extra[name] = row.values[name]
    return extra, unfit


def verl_columns(row: Row) -> dict[str, Any]:
    """What verl's columns hold; objects may stand there as JSON text."""
    extra = {column: row.values[column] for column in VERL_COLUMNS if row.values.get(column) is not None}
    for column, held in extra.items():
        if isinstance(held, str) and held.startswith("{"):
            try:
                extra[column] = parsed(held)
            except (ValueError, RecursionError):
                raise fields.wrong_type(row, column, held, "an object (as JSON text)") from None
        fields.check_value(row, column, extra[column])
    return extra


def has(extra: Mapping[str, Any], name: str) -> bool:
    return value(extra, name) is not None


def value(extra: Mapping[str, Any], name: str) -> Any:
    """A column, or else a value inside verl's ``extra_info``, where `prepare` writes columns; None for neither."""
    if name == "ground_truth":
        return _truth(extra)
    found = extra.get(name)
    return _inner(extra).get(name) if found is None else found


def names_in(extras: Iterable[Mapping[str, Any]]) -> set[str]:
    """Every name that ``value`` would find, those inside ``extra_info`` as ``extra_info.NAME``."""
    names: set[str] = set()
    for extra in extras:
        names.update(extra)
        names.update(f"extra_info.{name}" for name in _inner(extra))
    return names


def flat(extra: Mapping[str, Any]) -> dict[str, Any]:
    """``extra`` with the values inside ``extra_info`` beside the columns. A column of the same name comes first."""
    return {**_inner(extra), **extra}


def _inner(extra: Mapping[str, Any]) -> Mapping[str, Any]:
    inner = extra.get("extra_info")
    return inner if isinstance(inner, dict) else {}


def _truth(extra: Mapping[str, Any]) -> Any:
    """verl keeps the truth in ``reward_model.ground_truth``; other data names it directly.

    Under the style "model" a reward model judges, and ``reward_model.ground_truth`` is only a placeholder there.
    """
    nested = extra.get("reward_model")
    if isinstance(nested, dict) and nested.get("style") != "model" and nested.get("ground_truth") is not None:
        return nested["ground_truth"]
    return next((v for name in TRUTHS for v in (extra.get(name), _inner(extra).get(name)) if v is not None), None)


def _without_place(name: str, held: Any) -> Any:
    if name == "extra_info" and isinstance(held, dict):
        return {key: inner for key, inner in held.items() if key not in PLACE}
    return held
