"""Which files of a folder are data, and which of them are for training and which held out.

A file's split is told by its name, or by the name of the folder it stands in: ``train-00000-of-00002.parquet``,
``validation.jsonl``, ``train_prefs/0.parquet``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from concordant.config.specs import ADAPTER_CONFIG
from concordant.core.errors import UserError, unknown_name
from concordant.data.files import is_data_file
from concordant.data.rows import printable
from concordant.runs.names import CARD_JSON, CONFIG, REPORT_JSON, REPORT_PAGE, STATUS

SETS = ("rm", "sft", "rl")  # folders that `concordant prepare` writes, the one that says most first
HELD_OUT = ("test", "validation", "valid", "val", "dev", "eval")  # names of held-out splits, the one used first
PURPOSES = ("prefs", "sft", "gen")  # UltraFeedback's train_prefs and test_prefs are other data than its train_sft
_SPLIT = re.compile(rf"(train|{'|'.join(HELD_OUT)})(?![a-z])(?:_({'|'.join(PURPOSES)})(?![a-z]))?", re.IGNORECASE)


def is_prepared(folder: Path) -> bool:
    """True for a folder that `concordant prepare` wrote."""
    return any((folder / name / "train.parquet").is_file() for name in SETS)


def is_model(folder: Path) -> bool:
    """True for a folder with a model, or with an adapter: its JSON files are settings."""
    settings = ("config.json", ADAPTER_CONFIG)
    return any((folder / name).is_file() for name in settings) and any(folder.glob("*.safetensors"))


def is_output(folder: Path) -> bool:
    """True for a folder that a command of ours wrote: prepared data, a run, a report or a model."""
    prepared = (folder / CARD_JSON).is_file() and is_prepared(folder)
    written = ((CONFIG, STATUS), (REPORT_JSON, REPORT_PAGE))
    return prepared or is_model(folder) or any(all((folder / name).is_file() for name in names) for names in written)


def inside_only(folder: Path) -> list[Path]:
    """Everything under ``folder``, sorted. Raises UserError for a link that leads out of it, or in a circle."""
    root = folder.resolve()
    found = sorted(folder.rglob("*"))
    for path in found:
        if not path.is_symlink():
            continue
        try:
            target = path.resolve(strict=True)
        except FileNotFoundError:
            target = path.resolve()
        except (OSError, RuntimeError) as error:
            raise UserError(f"{printable(str(path))}: refused, a link that leads in a circle") from error
        if not target.is_relative_to(root):
            raise UserError(
                f"{path}: refused, a link that leads out of the folder (to {target}). "
                "To use that file, give it by its own path"
            )
    return found


def data_files(name: str, folder: Path) -> tuple[list[Path], list[str]]:
    """The data files under ``folder``, sorted, each once, and notes on what is left out."""
    kept: list[Path] = []
    seen: set[tuple[int, int]] = set()
    outputs: set[Path] = set()
    doubles: list[str] = []
    for path in inside_only(folder):
        inner = path.relative_to(folder)
        if any(part.startswith(".") for part in inner.parts):
            continue
        if path.is_dir():
            if is_output(path):
                outputs.add(path)
            continue
        if path.name == CARD_JSON or not is_data_file(path) or not path.is_file():
            continue
        if outputs & set(path.parents):
            continue
        status = path.stat()
        if (status.st_dev, status.st_ino) in seen:
            doubles.append(printable(str(inner)))
            continue
        seen.add((status.st_dev, status.st_ino))
        kept.append(path)
    notes = [
        f"{name}: {printable(str(p.relative_to(folder)))}/ is left out, "
        + ("it is a model" if is_model(p) else "a command wrote it")
        for p in sorted(outputs)
    ]
    notes += [f"{name}: {double} is left out, a second link to a file that is read" for double in doubles]
    return kept, notes


def split_of(path: Path, folder: Path) -> str:
    """``train``, ``test_prefs``, …: the split that a file's name, or the nearest folder's name, tells; "" for none."""
    for part in reversed(path.relative_to(folder).parts):
        if match := _SPLIT.match(part):
            return "_".join(piece.lower() for piece in match.groups() if piece)
    return ""


def choose_splits(name: str, found: Iterable[str], train: str, test: str) -> tuple[str, str]:
    """The training split and the held-out one ("" for none), out of the splits that the data has.

    ``found`` may hold "", the files that no split is named for: they are trained on where nothing is called train.
    ``train`` and ``test`` are what --data.split and --data.test name, "" for nothing. Raises UserError for a name that
    is not there, and where several splits could be trained on and none is named.
    """
    found = set(found)
    known = sorted(found - {""})
    for key, wanted in (("data.split", train), ("data.test", test)):
        if wanted and wanted not in known:
            raise unknown_name(f"split of {name} for {key}", wanted, known or ["none"])
    if not train:
        train = _training_split(name, known, unnamed="" in found)
    if not test:
        purpose = train.removeprefix("train") if train.startswith("train_") else ""
        order = [held + purpose for held in HELD_OUT] + list(HELD_OUT)
        test = next((held for held in order if held in known and held != train), "")
    if train and train == test:
        raise UserError(f"{name}: --data.split and --data.test both name {train}. Name two splits, or one")
    return train, test


def _training_split(name: str, known: list[str], unnamed: bool) -> str:
    candidates = ["train"] if "train" in known else [split for split in known if split.startswith("train_")]
    if len(candidates) > 1:
        raise UserError(f"{name}: several training splits. Choose one: --data.split {' or '.join(candidates)}")
    if candidates or unnamed:
        return candidates[0] if candidates else ""
    if len(known) == 1:
        return known[0]
    raise UserError(f'{name}: no "train" split (found: {", ".join(known)}). Choose one: --data.split NAME')
