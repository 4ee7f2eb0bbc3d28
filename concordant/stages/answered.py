"""What a verb that samples answers to prompts had done when it was interrupted: the complete rows of samples.jsonl."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch

from concordant.core.counted import counted
from concordant.core.errors import UserError
from concordant.runs.atomic import write_text
from concordant.runs.folder import RunFolder
from concordant.runs.inputs import Inputs
from concordant.runs.logs import Row, read_json, read_whole_lines
from concordant.runs.names import INPUTS, SAMPLES
from concordant.stages import common
from concordant.training.environment import environment

Answered = TypeVar("Answered")


def answered_before(
    folder: RunFolder, verb: str, read: Callable[[Row], Answered], at_once: int, total: int | None = None
) -> list[Answered]:
    """The complete rows of an interrupted command, one for each prompt. The rest of the file is removed.

    Prompts are answered ``at_once``, so that only whole groups are kept, unless all ``total`` prompts are answered.
    ``read`` raises KeyError or TypeError for a damaged row. Raises UserError if the rows belong to other settings.
    """
    folder.inputs.environment = environment(torch.get_num_threads())
    made_from, samples = folder.path / INPUTS, folder.path / SAMPLES
    changes: dict[str, list[str]] = {}
    before = read_json(made_from)
    if samples.exists() and before is None:
        raise UserError(f"{samples}: its inputs are unknown, because {INPUTS} is missing or damaged; remove both files")
    if samples.exists() and before is not None:
        try:
            inputs = Inputs.from_json(before)
        except TypeError:
            raise UserError(
                f"{made_from} is damaged: it does not say what {samples} was made from; remove it"
            ) from None
        changes = folder.changes_since(inputs, str(samples))
    write_text(made_from, json.dumps(folder.inputs.as_json(), indent=1) + "\n")
    folder.write_config()
    lines = read_whole_lines(samples)
    found = list(_readable((row for row, _ in lines), read))
    if samples.exists() and (lines[len(found) - 1][1] if found else 0) < samples.stat().st_size:
        common.message(f"{verb}: {samples} line {len(found) + 1} is damaged; answering again from there")
    if total is None or len(found) < total:
        found = found[: len(found) // at_once * at_once]
    if found:
        count = counted(len(found), "prompt was", "prompts were")
        of = count if total is None else f"{len(found)} of {counted(total, 'prompt was', 'prompts were')}"
        common.message(f"{verb}: {of} answered before")
    folder.rewind({SAMPLES: lines[len(found) - 1][1] if found else 0})
    for line in folder.note(changes):
        common.message(f"{verb}: {line}")
    return found


def _readable(rows: Iterable[Row], read: Callable[[Row], Answered]) -> Iterator[Answered]:
    """The rows before the first damaged row."""
    for row in rows:
        try:
            found = read(row)
        except (KeyError, TypeError):
            return
        yield found
