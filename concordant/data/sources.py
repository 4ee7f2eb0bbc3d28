"""What ``--data`` names: a file, a folder of files, a folder made by ``prepare``, a hub id, or builtin:toytalk.

Opening a source decides which rows are train and which, if it brings its own split, are test; nothing is read yet.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from concordant.core.errors import UserError, nearest, unknown_name
from concordant.data.files import BadRows, Row, check_kind, is_data_file, read_file
from concordant.data.records import Pair

SETS = ("rm", "sft", "rl")  # folders that `concordant prepare` writes, the one that says most first
TOYTALK_PRESETS = ("demo", "human", "biased")
HUB_ID = re.compile(r"(?P<id>[\w.-]+/[\w.-]+)(?:/(?P<folder>[\w./-]+))?(?::(?P<config>[\w.-]+))?")

OnBytes = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows still to be read and recognised."""

    read: Callable[[BadRows, OnBytes], Iterator[Row]]
    bytes: int = 0  # on disk, for a progress bar; 0 where unknown


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs that are made, not read."""

    make: Callable[[], list[Pair]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    name: str  # as the user gave it
    train: Rows | Pairs
    test: Rows | Pairs | None = None  # None: the source brings no split of its own
    notes: list[str] = field(default_factory=list)  # what a reader of the summary should know


def open_source(name: str, seed: int, sets: Sequence[str] = SETS) -> Source:
    """Find what ``name`` stands for.

    ``sets`` are the sets of a prepared folder that would do, best first. ``seed`` makes toytalk's pairs.
    Raises UserError when nothing is found, naming the nearest.
    """
    if not name:
        raise UserError("no data given. Expected --data FILE, FOLDER, HUB_ID or builtin:toytalk")
    if name.startswith("builtin:"):
        return _toytalk(name, seed)
    path = Path(name).expanduser()
    if path.is_file():
        check_kind(path)
        return Source(name=name, train=_files([path], [name]))
    if path.is_dir():
        return _prepared(name, path, sets) if is_prepared(path) else _folder(name, path)
    if (match := HUB_ID.fullmatch(name)) and not is_data_file(path) and not name.startswith((".", "/")):
        return _hub(name, match)
    siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    raise UserError(f'no such file or folder: "{name}".{nearest(path.name, siblings)}')


def is_prepared(folder: Path) -> bool:
    """True for a folder that `concordant prepare` wrote."""
    return any((folder / name / "train.parquet").is_file() for name in SETS)


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


def _toytalk(name: str, seed: int) -> Source:
    kind, _, preset = name.removeprefix("builtin:").partition("/")
    if kind != "toytalk":
        raise unknown_name("builtin data", kind, ["toytalk"])
    preset = preset or "demo"
    if preset not in TOYTALK_PRESETS:
        raise unknown_name("toytalk preset", preset, TOYTALK_PRESETS)
    from concordant.data.toytalk import heldout_pairs, training_pairs

    return Source(
        name=name, train=Pairs(lambda: training_pairs(preset, seed)), test=Pairs(lambda: heldout_pairs(preset, seed))
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


def inside_only(folder: Path) -> list[Path]:
    """Everything under ``folder``, sorted. Raises UserError for a link that leads out of it."""
    root = folder.resolve()
    found = sorted(folder.rglob("*"))
    for path in found:
        if path.is_symlink() and not path.resolve().is_relative_to(root):
            raise UserError(
                f"{path}: refused, a link that leads out of the folder (to {path.resolve()}). "
                "To use that file, give it by its own path"
            )
    return found


def _folder(name: str, folder: Path) -> Source:
    paths = [
        path
        for path in inside_only(folder)
        if path.is_file() and is_data_file(path) and path.name != "card.json" and path.name[0] != "."
    ]
    if not paths:
        raise UserError(
            f"{name}: no data file in this folder. Expected .jsonl, .json, .csv (also with .gz) or .parquet"
        )
    sides: dict[str, list[Path]] = {"train": [], "test": [], "": []}
    for path in paths:
        match = re.match(r"(train|test)(?![a-z])", path.name.lower())
        sides[match[1] if match else ""].append(path)

    def rows(chosen: list[Path]) -> Rows:
        return _files(chosen, [str(path) for path in chosen])

    if not (sides["train"] and sides["test"]):
        return Source(name=name, train=rows(paths))
    left_out = ", ".join(path.name for path in sides[""])
    notes = [f"{name}: train* and test* files are used, left out: {left_out}"] if left_out else []
    return Source(name=name, train=rows(sides["train"]), test=rows(sides["test"]), notes=notes)


def _hub(name: str, match: re.Match[str]) -> Source:
    """``OWNER/NAME``, ``OWNER/NAME/FOLDER`` or ``OWNER/NAME:CONFIG`` of the Hugging Face hub."""
    if ".." in name.split("/"):
        raise UserError(f'"{name}": ".." is refused in a hub id')
    splits = _load_from_hub(name, match)
    if "train" not in splits and len(splits) > 1:
        raise UserError(f'{name}: no "train" split (found: {", ".join(splits)}). Save the split you want as a file')
    train = "train" if "train" in splits else next(iter(splits))

    def rows(split: str) -> Rows:
        def read(bad: BadRows, on_bytes: OnBytes) -> Iterator[Row]:
            for number, values in enumerate(splits[split], start=1):
                yield Row(file=f"{name} {split}", unit="row", number=number, values=values)

        return Rows(read)

    return Source(name=name, train=rows(train), test=rows("test") if "test" in splits and train != "test" else None)


def _load_from_hub(name: str, match: re.Match[str]) -> dict[str, Any]:
    import datasets  # slow to import; only hub ids need it

    try:
        return dict(datasets.load_dataset(match["id"], match["config"], data_dir=match["folder"]))
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise UserError(
            f'"{name}" is no file or folder here, and could not be loaded from the Hugging Face hub '
            f"({str(error).splitlines()[0]}).\n"
            "Without a network: download the data elsewhere and give the file, --data FILE.jsonl "
            "(also .json, .csv, each with .gz, or .parquet)"
        ) from error
