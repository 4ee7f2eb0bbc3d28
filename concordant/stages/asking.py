"""What the verbs of AI feedback share: their output folder, and who answers their questions."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from concordant.config.collect import CollectConfig
from concordant.config.data import DataConfig
from concordant.config.judging import EndpointConfig, JudgeConfig
from concordant.config.model import ModelConfig
from concordant.config.sampling import SamplingConfig
from concordant.config.specs import is_address
from concordant.core.counted import counted
from concordant.core.errors import RunFailed, RunStopped, UserError
from concordant.data.card import make_card
from concordant.data.chat import ChatEncoder, Limits
from concordant.data.dialogue import Messages
from concordant.data.records import Record
from concordant.feedback.endpoint import Endpoint
from concordant.feedback.local import LocalWriter
from concordant.feedback.writers import Answered, Asking, Cache, Writer
from concordant.models.locate import locate
from concordant.runs.atomic import write_text
from concordant.runs.identity import identity
from concordant.runs.lock import FolderLock
from concordant.runs.names import ASKED, CARD_JSON, CARD_PAGE, LOCK, STAGE_RECORD
from concordant.runs.writable import check_folder
from concordant.stages import common
from concordant.stages.places import check_output_folder
from concordant.training.progress import current


@contextmanager
def output_folder(output: str, data: str) -> Iterator[Path]:
    """The folder, locked. One with other files than those of an earlier command is refused."""
    folder = Path(os.path.expanduser(output))
    check_output_folder(output, data)
    check_folder(folder)
    foreign = {path.name for path in folder.iterdir()} - {STAGE_RECORD, LOCK} if folder.is_dir() else set()
    if foreign and ASKED not in foreign:
        raise UserError(
            f"{output} holds other files; give a new folder, or the folder of an earlier command, as --output"
        )
    folder.mkdir(exist_ok=True)
    (folder / ASKED).touch()
    lock = FolderLock(folder)
    try:
        yield folder
    finally:
        lock.release()


def open_cache(folder: Path) -> Cache:
    cache = Cache(folder / ASKED)
    if cache.complaint:
        common.message(f"{cache.complaint}; these questions are asked again")
    return cache


def open_writer(
    source: str, endpoint: EndpointConfig, model: ModelConfig, data: DataConfig, max_answer_tokens: int
) -> Writer:
    """The writer that ``source`` names: a server, or a chat model, which answers with its most likely tokens."""
    if is_address(source):
        return Endpoint(source, endpoint, max_answer_tokens)
    sampling = SamplingConfig(temperature=0.0, max_new_tokens=max_answer_tokens)
    return open_policy_writer(replace(model, name=source), data, sampling, 0)


def open_judge(config: JudgeConfig | CollectConfig, model: ModelConfig, folder: Path) -> Asking:
    """The judge in words that ``config.judge`` names, and its earlier answers. ``model`` says how a chat model runs."""
    writer = open_writer(config.judge, config.endpoint, model, config.data, config.max_answer_tokens)
    return Asking(writer, open_cache(folder))


def ask(asking: Asking, questions: Sequence[Messages], what: str) -> list[Answered]:
    """An answer for every question, with a bar for ``what``."""
    with current().task(what, len(questions)) as bar:
        return asking(questions, lambda done: bar.update(done, {}))


def open_policy_writer(model: ModelConfig, data: DataConfig, sampling: SamplingConfig, seed: int) -> LocalWriter:
    if model.name.startswith("builtin:"):
        raise UserError(f"{model.name} has random weights and no tokenizer yet; train it with `concordant sft` first")
    policy = common.open_policy(model, data, [])
    reads = common.limits_of(data, policy).total
    encoder = ChatEncoder(policy.tokenizer, Limits(prompt=reads, total=reads, too_long="cut_prompt_start"))
    sampler = common.sampler_of(policy, encoder, model, sampling)
    return LocalWriter(sampler, sampling, seed, [_files(model.name), _files(model.adapter), model.precision])


def _files(name: str) -> Any:
    """The contents of a model's files; the id of a model on the hub."""
    found = locate(name) if name else ""
    return identity(found) if isinstance(found, Path) else found


def finish(
    folder: Path, asking: Asking | None, left_out: Mapping[str, int], made: int, numbers: dict[str, Any], file: str
) -> None:
    """Write the numbers, say what was left out, and raise where the writer stopped or nothing was made."""
    write_numbers(folder, asking, left_out, made, numbers, file)
    common.report_dropped(left_out, "records")
    stopped = asking.writer.stopped if asking is not None else ""
    if stopped:  # the server is down, or the budget of one command is used up
        raise RunStopped(f"{stopped}; {folder} has what there is, and the same command asks for the rest")
    if not made:
        raise RunFailed(f"nothing was made of the data: {why_nothing(asking) or ', '.join(map(str, left_out))}")


def write_numbers(
    folder: Path, asking: Asking | None, left_out: Mapping[str, int], made: int, numbers: dict[str, Any], file: str
) -> None:
    """Write the numbers of a command, with what the writer was asked, and say what it skipped."""
    if asking is not None:
        numbers |= {
            "asked": asking.asked,
            "remembered": asking.remembered,
            "prompt_tokens": asking.prompt_tokens,
            "answer_tokens": asking.answer_tokens,
            "requests": getattr(asking.writer, "calls", asking.asked),
        }
    numbers |= {"made": made, "left_out": dict(left_out)}
    write_text(folder / file, json.dumps(numbers, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    if asking is not None:
        for reason, detail in asking.skipped.items():
            common.message(f"skipped: {reason}{f'; the first: {detail}' if detail else ''}")
        common.message(f"{counted(asking.asked, 'question')} answered now, {asking.remembered:,} before")


def why_nothing(asking: Asking | None) -> str:
    """The first reason why a question has no answer; "" where every question has one."""
    told = [f"{why} ({detail})" if detail else why for why, detail in (asking.skipped if asking else {}).items()]
    return told[0] if told else ""


def write_card(
    folder: Path, records: Sequence[Record], data: DataConfig, rows: int, left_out: Counter[str], notes: Sequence[str]
) -> None:
    used = len(records)
    card = make_card(
        records, [], source=data.path, seed=0, rows_read=rows, dropped=left_out, notes=notes, rows_used=used
    )
    write_text(folder / CARD_JSON, card.to_json())
    write_text(folder / CARD_PAGE, card.markdown())
