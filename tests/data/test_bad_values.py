"""Values that files can hold and Python or a chat cannot, and bombs: named with file and row, or counted (row 35)."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.fuzz import main as fuzz
from concordant.config.data import DataConfig
from concordant.config.stages import PrepareConfig
from concordant.core.errors import UserError
from concordant.data import files
from concordant.data.card import DataCard
from concordant.data.prepare import prepare
from concordant.data.records import Demonstration, Pair, Prompt
from concordant.data.splits import load_all, load_records


def made(tmp_path: Path, path: Path, skip: bool = False) -> DataCard:
    return prepare(
        PrepareConfig(data=DataConfig(path=str(path), skip_bad_rows=skip), output=str(tmp_path / "out")),
    )


def lines(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def parquet(path: Path, names: list[str], *columns: pa.Array) -> Path:
    pq.write_table(pa.Table.from_arrays(list(columns), names=names), path)
    return path


PROMPTS = pa.array(["a", "b", "c"])


def not_utf8() -> pa.Array:
    offsets = pa.py_buffer(b"".join(n.to_bytes(4, "little") for n in (0, 1, 2, 3)))
    return pa.StringArray.from_buffers(3, offsets, pa.py_buffer(b"x\xffz"))


@pytest.mark.parametrize(
    "column",
    [
        not_utf8(),
        pa.array([0, 2**40, 0], pa.int64()).cast(pa.timestamp("s")),
        pa.array([0, 2**31 - 1, 0], pa.int32()).cast(pa.date32()),
    ],
)
def test_a_parquet_value_that_python_cannot_hold_is_its_rows_fault(tmp_path: Path, column: pa.Array) -> None:
    path = parquet(tmp_path / "a.parquet", ["prompt", "when"], PROMPTS, column)
    with pytest.raises(UserError, match=r"a.parquet row 2: a value that cannot be read"):
        made(tmp_path, path)
    card = made(tmp_path, path, skip=True)
    assert (card.rows_read, card.rows_used, card.dropped) == (3, 2, {"values that cannot be read": 1})


def test_a_parquet_column_that_stands_twice_is_named(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", ["prompt", "prompt"], PROMPTS, PROMPTS)
    with pytest.raises(UserError, match='the column "prompt" stands twice'):
        made(tmp_path, path)


def test_a_field_that_stands_twice_in_a_value_is_its_rows_fault(tmp_path: Path) -> None:
    twice = pa.StructArray.from_arrays([PROMPTS, PROMPTS], names=["x", "x"])
    path = parquet(tmp_path / "a.parquet", ["prompt", "extra_info"], PROMPTS, twice)
    with pytest.raises(UserError, match="a.parquet row 1: a value that cannot be read"):
        made(tmp_path, path)


@pytest.mark.parametrize("value", [2**63, 2**64 - 1, 10**30, -(10**30)])
def test_great_integers_are_carried_along(tmp_path: Path, value: int) -> None:
    rows = [{"prompt": f"q{i}", "data_source": "d", "extra_info": {"id": value if i else 1}} for i in range(8)]
    path = lines(tmp_path / "a.jsonl", *rows)
    made(tmp_path, path)
    sides = [load_records(DataConfig(path=str(p)), Prompt, 0) for p in (path, tmp_path / "out")]
    ids = [{p.messages: p.extra["extra_info"]["id"] for p in side.train + side.test} for side in sides]
    assert ids[0] == ids[1] and value in ids[0].values()


def test_unsigned_64_bit_parquet_columns_are_read(tmp_path: Path) -> None:
    ids = pa.array([2**64 - 1, 1, 2], pa.uint64())
    assert made(tmp_path, parquet(tmp_path / "a.parquet", ["prompt", "id"], PROMPTS, ids)).rows_used == 3


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "[{\"role\": \"user\", \"content\": \"\\ud800\"}]", "response": "a"},
        {"messages": "[{\"role\": \"user\", \"content\": \"\\ud800\"}, {\"role\": \"assistant\", \"content\": \"a\"}]"},
        {"prompt": "q", "data_source": "d", "extra_info": {"k": "\ud800"}},
        {"prompt": "q", "data_source": "d", "extra_info": "{\"\\ud800\": 1}"},
        {"prompt": "q", "response": "a", "tools": [{"name": "\ud800"}]},
    ],
)  # fmt: skip
def test_half_a_surrogate_pair_anywhere_is_its_rows_fault(tmp_path: Path, row: dict[str, Any]) -> None:
    good = json.loads(json.dumps(row).replace("ud800", "u00e9"))
    path = lines(tmp_path / "a.jsonl", good, row, {**good, "id": 1})
    with pytest.raises(UserError, match=r"a.jsonl line 2: .* is not valid Unicode"):
        made(tmp_path, path)
    assert made(tmp_path, path, skip=True).dropped == {"wrong type": 1}


def test_half_a_surrogate_pair_in_a_column_that_is_not_used_harms_nothing(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", {"prompt": "q", "note \ud800": "\ud800"}, {"prompt": "r"})
    card = made(tmp_path, path)
    assert card.rows_used == 2
    assert card.columns["not used"] == ("note \\ud800",)


@pytest.mark.parametrize("history", [7, {"a": 1}, "x", [7], [["a"]]])
def test_alpacas_history_of_another_type_is_named(tmp_path: Path, history: Any) -> None:
    path = lines(tmp_path / "a.jsonl", {"instruction": "q", "output": "a", "history": history})
    with pytest.raises(UserError, match='line 1: "history" must be a list of'):
        made(tmp_path, path)


def test_an_extra_column_that_is_nested_too_deep_is_named(tmp_path: Path) -> None:
    deep: Any = "x"
    for _ in range(300):
        deep = [deep]
    path = lines(tmp_path / "a.jsonl", {"prompt": "q", "data_source": "d", "extra_info": deep})
    with pytest.raises(UserError, match='"extra_info" is nested more than 32 levels deep'):
        made(tmp_path, path)


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.json.gz", "a.csv.gz"])
def test_a_row_that_expands_beyond_the_limit_is_refused(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "LONGEST_ROW", 10_000)
    monkeypatch.setattr(files, "CHUNK", 1_000)
    great = json.dumps({"prompt": "a" * 50_000})
    good = [json.dumps({"prompt": name}) for name in "ab"]
    text = {
        "a.jsonl.gz": "\n".join([good[0], great, good[1]]),
        "a.json.gz": "[" + ",".join([*good, great]) + "]",
        "a.csv.gz": "prompt\nq\n" + "a" * 50_000 + "\nr\n",
    }[name]
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()))
    with pytest.raises(UserError, match=r"larger than"):
        made(tmp_path, path)
    card = made(tmp_path, path, skip=True)
    assert (card.rows_used, card.rows_read) == (2, 3)


def test_other_delimiters_encodings_and_a_list_inside_an_object(tmp_path: Path) -> None:
    for mark in (";", "\t"):
        (tmp_path / "a.csv").write_text(f"prompt{mark}chosen{mark}rejected\nq{mark}a, b{mark}c\n")
        assert (
            load_all(DataConfig(path=str(tmp_path / "a.csv")), 0).train[0]
            == load_all(
                DataConfig(path=str(lines(tmp_path / "a.jsonl", {"prompt": "q", "chosen": "a, b", "rejected": "c"}))), 0
            ).train[0]
        )
    (tmp_path / "b.jsonl").write_bytes(json.dumps({"prompt": "q"}).encode("utf-16"))
    with pytest.raises(UserError, match="b.jsonl: written in UTF-16. Expected UTF-8"):
        made(tmp_path, tmp_path / "b.jsonl")
    (tmp_path / "c.json").write_text(json.dumps({"train": [{"prompt": "q"}, {"prompt": "r"}]}))
    assert made(tmp_path, tmp_path / "c.json").rows_used == 2
    (tmp_path / "d.json").write_text(json.dumps({"train": [{"prompt": "q"}], "test": [{"prompt": "r"}]}))
    with pytest.raises(UserError, match=r"several lists in one object \(train, test\)"):
        made(tmp_path, tmp_path / "d.json")


def test_plain_text_is_split_row_by_row_and_counted_as_its_own(tmp_path: Path) -> None:
    """All such rows have the empty prompt; they are not one prompt for that."""
    path = lines(tmp_path / "a.jsonl", *({"text": f"Owl {i} hunts."} for i in range(40)))
    card = made(tmp_path, path)
    assert card.rows == {"train": 30, "test": 10}
    assert (card.duplicate_prompts, card.shared_prompts) == (0, 0)


def test_records_know_their_place_through_every_conversion(tmp_path: Path) -> None:
    path = str(lines(tmp_path / "a.jsonl", {"prompt": "q", "chosen": "a", "rejected": "b"}))
    for want in (Pair, Demonstration, Prompt):
        found = load_records(DataConfig(path=path).whole(), want, 0)  # type: ignore[type-var]
        assert {record.where for record in found.train} == {f"{path} line 1"}


def test_tools_and_thoughts_come_back_from_what_prepare_writes(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "reasoning_content": "hm"}]
    more = [*turns, {"role": "tool", "content": "4"}, {"role": "assistant", "content": "b"}]
    rows = [{"messages": m, "tools": [{"name": "f", "n": i}]} for i, m in enumerate((turns, more))]
    path = lines(tmp_path / "a.jsonl", *rows)
    made(tmp_path, path)
    raw, back = (load_records(DataConfig(path=str(p)), Demonstration, 0) for p in (path, tmp_path / "out"))
    assert (raw.train, raw.test) == (back.train, back.test)
    assert all(record.tools for record in back.train + back.test)


@pytest.mark.parametrize(("verb", "count"), [("prepare", 60), ("doctor", 30), ("sft", 8)])
def test_a_short_fuzz_finds_nothing(verb: str, count: int, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--verb", verb, "--count", str(count), "--seed", "1", "--folders", "0"]
    assert fuzz(arguments) == 0, capsys.readouterr().err


FIELD = {  # files from the field: the dropped rows of each, or what is said
    "arena55k.jsonl": 0, "chatml_dpo.jsonl": 0, "helpsteer2.jsonl": 0, "helpsteer2_preference.jsonl": 0,
    "lf_sharegpt_system.jsonl": 0, "long_prompts.jsonl": 0, "messages_label.jsonl": 0,
    "messages_system_column.jsonl": 0, "mid_system.jsonl": 0, "misspelt_response.jsonl": 'no "response"',
    "nectar.jsonl": 0, "odd_semicolon.csv": 0, "odd_utf16.jsonl": "written in UTF-16",
    "odd_wrapped_train_key.json": 0, "one_bad_turn_order.jsonl": 0, "openai_weight.jsonl": 0,
    "plain_prompt_repeated.jsonl": 0, "plain_text.jsonl": 0, "preference_system_column.jsonl": 0,
    "r1_reasoning.jsonl": 0, "reasoning_content.jsonl": 0, "sft40.jsonl": 0, "swift_rejected_response.jsonl": 0,
    "tools_only_column.jsonl": 0, "trl_stepwise.jsonl": 0,
}  # fmt: skip


@pytest.mark.parametrize("name", FIELD)
def test_inputs_that_failed_in_the_field(shared_data: Callable[[str], Path], name: str) -> None:
    path = shared_data(f"../field/data/{name}")
    expected = FIELD[name]
    if isinstance(expected, str):
        with pytest.raises(UserError, match=expected):
            load_all(DataConfig(path=str(path)), 0)
        return
    loaded = load_all(DataConfig(path=str(path)), 0)
    assert loaded.rows_used == loaded.rows_read and not loaded.dropped
