"""The sources that ``--data`` can name: a file, a folder of files, a folder made by ``prepare``, a hub id,
builtin:toytalk or builtin:sums.

Opening a source decides which rows are for training, and which are held out if the source has its own split. It does
not read the rows yet.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from concordant.core import hub
from concordant.core.errors import UserError, unknown_name
from concordant.core.near_path import nearest_path, what_it_is
from concordant.data.files import check_kind, is_data_file, read_file
from concordant.data.folders import SETS, choose_splits, data_files, inside_only, is_prepared, split_of
from concordant.data.parquet import report_unreadable, unreadable_values
from concordant.data.records import Demonstration, Pair
from concordant.data.rows import BadRows, Row, printable

PRESETS = {
    "toytalk": ("demo", "human", "biased"),
    "sums": ("direct", "calculator"),
}  # of builtin data; the first is usual
HUB_ID = re.compile(r"(?P<id>[\w.-]+/[\w.-]+)(?:/(?P<folder>[\w./-]+))?(?::(?P<config>[\w.-]+))?")

OnBytes = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows that are not read and recognised yet."""

    read: Callable[[BadRows, OnBytes], Iterator[Row]]
    bytes: int = 0  # size on disk, for a progress bar; 0 if unknown


@dataclass(frozen=True, slots=True)
class Made:
    """Records that are generated and not read from files."""

    make: Callable[[], Sequence[Pair | Demonstration]]
    kind: str  # what the records are, in the words of a summary


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    name: str  # as the user gave it
    train: Rows | Made
    test: Rows | Made | None = None  # None if the source has no split of its own
    notes: list[str] = field(default_factory=list)  # sentences for the summary


def open_source(name: str, seed: int, sets: Sequence[str] = SETS, *, split: str = "", test: str = "") -> Source:
    """The source that ``name`` stands for.

    ``sets`` are the sets of a prepared folder that can be used, the best one first. ``seed`` is the seed of generated
    records. ``split`` and ``test`` name the training split and the held-out split of a folder or a hub id. Raises
    UserError with the nearest name if nothing is found.
    """
    if not name:
        raise UserError("no data given. Expected --data FILE, FOLDER, HUB_ID or builtin:toytalk")
    if name.startswith("builtin:"):
        return _builtin(name, seed)
    path = Path(os.path.expanduser(name))
    is_file, is_folder = _look_at(path)
    if (split or test) and (is_file or (is_folder and is_prepared(path))):
        raise UserError(
            f"{printable(name)}: has no splits to choose from. --data.split and --data.test are for folders and hub ids"
        )
    if is_file:
        check_kind(path)
        return Source(name=printable(name), train=_files([path], [printable(name)]))
    if is_folder:
        return _prepared(name, path, sets) if is_prepared(path) else _folder(printable(name), path, split, test)
    if os.path.lexists(path):
        raise UserError(f"{printable(name)}: {what_it_is(path)}; expected a file or a folder")
    guess = nearest_path(path)
    if (match := HUB_ID.fullmatch(name)) and not is_data_file(path) and not name.startswith((".", "/")):
        if guess:  # the hub may have a stranger's data under a name that was mistyped, so it is not asked
            guess += " For data of the hub with this name, start in another folder"
        else:
            return _hub(name, match, split, test)
    raise UserError(f'no such file or folder: "{printable(name)}".{guess}')


def _look_at(path: Path) -> tuple[bool, bool]:
    """(whether ``path`` is a file, whether it is a folder). Raises UserError for a name that no disk can hold."""
    try:
        path.stat()
    except FileNotFoundError:
        return False, False
    except (OSError, ValueError, RuntimeError) as error:  # 300 bytes; a NUL in the name; a link to itself
        reason = getattr(error, "strerror", None) or error
        shown = printable(str(path))
        raise UserError(f"cannot open {shown[:80]}{'…' if len(shown) > 80 else ''}: {reason}") from error
    return path.is_file(), path.is_dir()


def _files(paths: Sequence[Path], names: Sequence[str]) -> Rows:
    sizes = [path.stat().st_size for path in paths]

    def read(bad: BadRows, on_bytes: OnBytes) -> Iterator[Row]:
        before = 0
        for path, name, size in zip(paths, names, sizes, strict=True):
            start = before

            def advance(done: int, start: int = start) -> None:
                on_bytes(start + done)

            yield from read_file(path, name, bad, advance)
            before += size
            on_bytes(before)

    return Rows(read, sum(sizes))


def _builtin(name: str, seed: int) -> Source:
    kind, _, preset = name.removeprefix("builtin:").partition("/")
    if kind not in PRESETS:
        raise unknown_name("builtin data", kind, PRESETS)
    preset = preset or PRESETS[kind][0]
    if preset not in PRESETS[kind]:
        raise unknown_name(f"{kind} preset", preset, PRESETS[kind])
    if kind == "sums":
        from concordant.data.sums import heldout_sums, training_sums

        return Source(
            name=name,
            train=Made(lambda: training_sums(preset, seed), "demonstrations"),
            test=Made(lambda: heldout_sums(preset, seed), "demonstrations"),
        )
    from concordant.data.toytalk import heldout_pairs, training_pairs

    return Source(
        name=name,
        train=Made(lambda: training_pairs(preset, seed), "pairs"),
        test=Made(lambda: heldout_pairs(preset, seed), "pairs"),
    )


def _prepared(name: str, folder: Path, sets: Sequence[str]) -> Source:
    inside_only(folder)
    present = [s for s in SETS if (folder / s / "train.parquet").is_file()]
    usable = [s for s in sets if s in present]
    if not usable:
        needed = " or ".join(f"{s}/" for s in sets) or "another format"
        raise UserError(f"{name}: prepared data with {', '.join(f'{s}/' for s in present)}, but this needs {needed}")
    sides = {}
    for side in ("train", "test"):
        path = folder / usable[0] / f"{side}.parquet"
        if not path.is_file():
            raise UserError(f"{name}: prepared data without {usable[0]}/{side}.parquet. Run concordant prepare again")
        sides[side] = _files([path], [f"{name.rstrip('/')}/{usable[0]}/{side}.parquet"])
    return Source(name=name, train=sides["train"], test=sides["test"])


def _folder(name: str, folder: Path, split: str, test: str) -> Source:
    paths, notes = data_files(name, folder)
    if not paths:
        raise UserError(
            "\n".join(
                [
                    f"{name}: no data file in this folder. Expected .jsonl, .json, .csv (also with .gz) or .parquet",
                    *notes,
                ]
            )
        )
    sides: dict[str, list[Path]] = {}
    for path in paths:
        sides.setdefault(split_of(path, folder), []).append(path)

    def rows(chosen: list[Path]) -> Rows:
        return _files(chosen, [printable(str(path)) for path in chosen])

    train, held_out = choose_splits(name, sides, split, test)
    chosen = list(sides[train])
    used = {train, held_out}
    if train and not held_out and not split:  # no file is held out: files without a split are training data too
        chosen = sorted(chosen + sides.get("", []))
        used.add("")
    left_out = [printable(str(path.relative_to(folder))) for side in sides.keys() - used for path in sides[side]]
    if left_out or (held_out and not train):
        names = " and ".join(f"{side}*" for side in (train, held_out) if side)
        others = f"left out: {', '.join(sorted(left_out))}" if left_out else "the others are trained on"
        notes.append(f"{name}: {names} files are used, {others}" if train else f"{name}: {names} is held out, {others}")
    return Source(name=name, train=rows(chosen), test=rows(sides[held_out]) if held_out else None, notes=notes)


def _hub(name: str, match: re.Match[str], split: str, test: str) -> Source:
    """``OWNER/NAME``, ``OWNER/NAME/FOLDER`` or ``OWNER/NAME:CONFIG`` of the Hugging Face hub."""
    if ".." in name.split("/"):
        raise UserError(f'"{name}": ".." is refused in a hub id')
    hub.ask(match["id"], "dataset", "--data")
    splits = _load_from_hub(name, match)
    train, held_out = choose_splits(name, splits, split, test)
    left_out = sorted(splits.keys() - {train, held_out})
    notes = [f"{name}: splits that are not used: {', '.join(left_out)}"] if left_out else []

    def rows(side: str) -> Rows:
        def read(bad: BadRows, on_bytes: OnBytes) -> Iterator[Row]:
            return _hub_rows(splits[side], f"{name} {side}", bad)

        return Rows(read)

    return Source(name=name, train=rows(train), test=rows(held_out) if held_out else None, notes=notes)


def _hub_rows(split: Any, name: str, bad: BadRows) -> Iterator[Row]:
    """The rows of a split. A row with a value that Python cannot hold is reported."""
    unreadable, number, rows = unreadable_values(), 0, iter(split)
    while True:
        number += 1
        try:
            values = next(rows)
        except StopIteration:
            return
        except unreadable as error:
            report_unreadable(f"{name} row {number}", error, bad)
            rows = (split[i] for i in range(number, len(split)))  # an iterator that has raised an error is at its end
        else:
            yield Row(file=name, unit="row", number=number, values=values)


def _load_from_hub(name: str, match: re.Match[str]) -> dict[str, Any]:
    import datasets  # slow to import; only hub ids need it

    try:
        return dict(datasets.load_dataset(match["id"], match["config"], data_dir=match["folder"]))
    except MemoryError:
        raise
    except Exception as error:  # of the network, the hub, its library or a file, whose classes differ
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise UserError(
            f'"{name}" is no file or folder here, and could not be loaded from the Hugging Face hub '
            f"({reason}).\n"
            "Without a network: download the data elsewhere and give the file, --data FILE.jsonl "
            "(also .json, .csv, each with .gz, or .parquet)"
        ) from error
