"""``concordant prepare`` writes any data as the parquet files of ``sft/ rm/ rl/``, with a data card."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from concordant.config.stages import PrepareConfig
from concordant.core.errors import UserError
from concordant.data.card import CountTokens, DataCard, make_card
from concordant.data.carried import EVERYTHING, VERL_COLUMNS
from concordant.data.convert import MODEL_REWARD, answers_of, as_demonstrations, prompt_of, split_key
from concordant.data.dialogue import Drop, Messages, as_object, check_prompt, write_prompt
from concordant.data.folders import SETS
from concordant.data.records import Demonstration, Pair, Record
from concordant.data.rows import printable
from concordant.data.splits import Loaded, OnProgress, answers_not_learnt, load_all, load_test
from concordant.runs.atomic import whole_folder
from concordant.runs.names import CARD_JSON, CARD_PAGE, LOCK, STAGE_RECORD

if TYPE_CHECKING:
    import pyarrow as pa

OURS = {*SETS, CARD_JSON, CARD_PAGE}  # the names in an output folder
OF_PIPELINES = {
    STAGE_RECORD,
    LOCK,
}  # names in the folder of a pipeline's stage; the record stays when sets are replaced
ROWS_AT_ONCE = 8192  # rows turned into Arrow columns at a time
SHOW_PROGRESS_FROM = 32 << 20  # bytes of input from which a progress bar is shown


def prepare(config: PrepareConfig, count_tokens: CountTokens | None = None) -> DataCard:
    """Write ``output/{sft,rm,rl}/{train,test}.parquet``, ``card.json`` and ``card.md``; return the card.

    The output is written to another folder first and then renamed, so that it is complete or not there at all. A set
    without rows (rm without pairs, sft without answers) is not written. With ``count_tokens``, the card gives lengths
    in tokens. Raises UserError for bad data, and for an output folder that holds other files.
    """
    output = Path(os.path.expanduser(config.output)).absolute()
    _check_replaceable(output, Path(os.path.expanduser(config.data.path)))
    data = replace(config.data, max_samples=config.max_samples or config.data.max_samples)
    with _progress() as on_progress:
        held = load_all(data, config.seed, on_progress=on_progress, wanted=EVERYTHING)
        compare_with = (config.compare_with, _compared(config)) if config.compare_with else None
    name = data.path if data.path.startswith("builtin:") else printable(Path(data.path).name)
    with _folder_at_once(output) as folder:
        if (output / STAGE_RECORD).is_file():
            shutil.copy2(output / STAGE_RECORD, folder)
        written = _write_sets(folder, held, name)
        card = make_card(
            held.train,
            held.test,
            source=data.path,
            seed=config.seed,
            rows_read=held.rows_read,
            formats=held.formats,
            dropped=held.dropped,
            count_tokens=count_tokens,
            compare_with=compare_with,
            written=written,
            rows_used=held.rows_used,
            columns=held.columns,
            notes=[*held.notes, *answers_not_learnt(held, data)],
        )
        (folder / CARD_JSON).write_text(card.to_json(), encoding="utf-8")
        (folder / CARD_PAGE).write_text(card.markdown(), encoding="utf-8")
    return card


def _compared(config: PrepareConfig) -> set[Messages]:
    """The prompts of the test set that ``compare_with`` names."""
    return {split_key(record) for record in load_test(config.data, config.compare_with, config.seed)}


def _check_replaceable(output: Path, data: Path) -> None:
    """Raise UserError unless ``output`` is free, empty or an earlier result; other files are never replaced.

    An earlier result that is the ``data`` to read, or holds it, is refused too: the sets would be split again, and a
    sample of them would take the place of all.
    """
    if output.exists() and not output.is_dir():
        raise UserError(f"{output}: a file. Expected a folder to write to, or a name not taken yet")
    foreign = (
        sorted(path.name for path in output.iterdir() if path.name not in OURS | OF_PIPELINES)
        if output.is_dir()
        else []
    )
    if foreign:
        raise UserError(f"{output}: holds {foreign[0]}, which concordant prepare did not write. Give another --output")
    if output.is_dir() and os.path.exists(data) and data.resolve().is_relative_to(output.resolve()):
        raise UserError(f"{output}: holds the data that is read ({printable(str(data))}). Give another --output")


@contextmanager
def _folder_at_once(output: Path) -> Iterator[Path]:
    """``whole_folder`` with errors that name the folder that was asked for."""
    try:
        with whole_folder(output) as new:
            yield new
    except OSError as error:
        raise UserError(f"cannot write {output}: {error.strerror or error}") from error


@contextmanager
def _progress() -> Iterator[OnProgress]:
    """A progress bar of the bytes read. It is shown only if there are many."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    bar = Progress("reading", BarColumn(), DownloadColumn(), TimeRemainingColumn(), transient=True)
    task = bar.add_task("reading", total=None)

    def on_progress(done: int, total: int) -> None:
        if total >= SHOW_PROGRESS_FROM and bar.console.is_terminal:
            bar.start()
            bar.update(task, completed=done, total=total)

    try:
        yield on_progress
    finally:
        if bar.live.is_started:  # a bar that was never shown would end with an empty line on stdout
            bar.stop()


def _write_sets(folder: Path, held: Loaded[Record], source: str) -> dict[str, int]:
    """Write every set that has rows. Returns the number of rows of each file."""
    written: dict[str, int] = {}
    sides = {"train": held.train, "test": held.test}
    for name, columns_of in {"sft": _sft_rows, "rm": _rm_rows, "rl": _rl_rows}.items():
        rows = {side: columns_of(records, side, source) for side, records in sides.items()}
        schema = _schema(name, [*held.train, *held.test], source)
        (folder / name).mkdir()
        for side in sides:
            written[f"{name}/{side}.parquet"] = _write_parquet(folder / name / f"{side}.parquet", rows[side], schema)
        if not any(written[f"{name}/{side}.parquet"] for side in sides):
            shutil.rmtree(folder / name)
            for side in sides:
                del written[f"{name}/{side}.parquet"]
    return written


def _sft_rows(records: Sequence[Record], side: str, source: str) -> Iterator[dict[str, Any]]:
    """Rows of the set sft. A pair gives a row for each answer: SFT learns how answers look, not which one is better."""
    for record in records:
        made = as_demonstrations(record, "both")
        if isinstance(made, Drop):
            continue
        prompt = write_prompt(prompt_of(record), answers_of(record))
        for d in made:
            last = d.messages[-1]
            yield {
                "prompt": prompt,
                "response": last.content,
                "reasoning_content": last.reasoning_content or None,
                "first_response": d.first_response,
                **_tools(record),
            }


def _rm_rows(records: Sequence[Record], side: str, source: str) -> Iterator[dict[str, Any]]:
    for record in records:
        if isinstance(record, Pair):
            yield {
                "prompt": write_prompt(record.prompt, [record.chosen, record.rejected]),
                "chosen": record.chosen,
                "rejected": record.rejected,
                "margin": record.margin,
                "probability": record.probability,
                **_tools(record),
            }


def _rl_rows(records: Sequence[Record], side: str, source: str) -> Iterator[dict[str, Any]]:
    for index, record in enumerate(records):
        prompt = prompt_of(record)
        if check_prompt(prompt):
            continue
        row: dict[str, Any] = {"prompt": [as_object(m) for m in prompt], **_tools(record)}
        if isinstance(record, Pair):
            row |= {"chosen": record.chosen, "rejected": record.rejected}
        yield row | _reward_columns(record, side, index, source)


def _tools(record: Record) -> dict[str, Any]:
    return {"tools": json.dumps(record.tools, ensure_ascii=False, default=str) if record.tools else None}


def _reward_columns(record: Record, side: str, index: int, source: str) -> dict[str, Any]:
    """verl's four columns. The data's own values are kept if it has these columns; its other columns go to extra_info.

    A reward function gets a name inside extra_info as it gets a column, here and with verl.
    """
    own = record.extra
    info = own.get("extra_info", {"split": side, "index": index})
    others = {key: value for key, value in own.items() if key not in VERL_COLUMNS}
    if others:
        info = {**(info if isinstance(info, dict) else {"extra_info": info}), **others}
    return {
        "data_source": own.get("data_source", source),
        "ability": own.get("ability", "alignment"),
        "reward_model": own.get("reward_model", MODEL_REWARD),
        "extra_info": info,
    }


def _schema(name: str, records: Sequence[Record], source: str) -> pa.Schema:
    """The columns of a set. Optional columns are there only if a row of the data needs them."""
    import pyarrow as pa

    text = pa.string()
    pairs = [record for record in records if isinstance(record, Pair)]
    columns: dict[str, pa.DataType] = {}
    if name == "sft":
        columns = {"prompt": text, "response": text}
        demonstrations = [record for record in records if isinstance(record, Demonstration)]
        if any(d.first_response < max(1, len(d.messages) - 1) for d in demonstrations):  # several answers, or no prompt
            columns["first_response"] = pa.int64()
        if any(d.messages[-1].reasoning_content for d in demonstrations):
            columns["reasoning_content"] = text
    elif name == "rm":
        columns = {"prompt": text, "chosen": text, "rejected": text}
        optional = {"margin": (p.margin for p in pairs), "probability": (p.probability for p in pairs)}
        columns |= {c: pa.float64() for c, values in optional.items() if any(v is not None for v in values)}
    else:
        thoughts = any(m.reasoning_content for record in records for m in prompt_of(record))
        parts = [("role", text), ("content", text), *([("reasoning_content", text)] if thoughts else [])]
        columns = {"prompt": pa.list_(pa.struct(parts))}
        columns |= {"chosen": text, "rejected": text} if pairs else {}
        own = [r for r in records if r.extra] and records
        rewards = [_reward_columns(record, "train", 0, source) for record in own or records[:1]]
        columns |= {column: _type_of([row[column] for row in rewards]) for column in VERL_COLUMNS}
    if any(record.tools for record in records):
        columns["tools"] = text
    return pa.schema(list(columns.items()))


def _type_of(values: list[Any]) -> pa.DataType:
    """Arrow's type for all of ``values``, or string (for JSON) if no type gives each value back as it was.

    Arrow makes floats of numbers that are not all whole, and gives every object the keys of all objects. In the outer
    object a key without a value is no loss: it says the same as an absent key.
    """
    import pyarrow as pa

    try:
        found = pa.array(values).type
        is_exact = "struct<>" not in str(found)  # Parquet has no object without fields
        for start in range(0, len(values) if is_exact else 0, ROWS_AT_ONCE):
            part = values[start : start + ROWS_AT_ONCE]
            is_exact = is_exact and [*map(_plain, pa.array(part, found).to_pylist())] == [*map(_plain, part)]
    except (pa.ArrowException, OverflowError, ValueError, TypeError):
        return pa.string()
    return found if is_exact else pa.string()


def _plain(value: Any) -> str:
    """A text that two values share if they are the same values of the same types."""
    if isinstance(value, dict):
        value = {key: item for key, item in value.items() if item is not None}
    return json.dumps(value, sort_keys=True, default=repr)


def _write_parquet(path: Path, rows: Iterator[dict[str, Any]], schema: pa.Schema) -> int:
    """Write ``rows``, some thousands at a time. Returns the number of rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    count = 0
    as_json = [f.name for f in schema if pa.types.is_string(f.type) and f.name in VERL_COLUMNS]
    with pq.ParquetWriter(path, schema) as writer:
        while chunk := list(islice(rows, ROWS_AT_ONCE)):
            for row in chunk:
                row |= {
                    c: json.dumps(row[c], ensure_ascii=False, default=str)
                    for c in as_json
                    if not isinstance(row[c], str)
                }
            writer.write_table(pa.Table.from_pylist(chunk, schema=schema))
            count += len(chunk)
    return count
