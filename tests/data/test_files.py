"""Every kind of file gives the same rows; every kind of damage is named with its file and line (faults.md, row 15)."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from concordant.core.errors import UserError
from concordant.core.seeding import derive
from concordant.data import parquet
from concordant.data.files import read_file
from concordant.data.rows import BadRows

ROWS = [{"prompt": f"question {i}", "response": 'a "quoted",\nlong’ answer'} for i in range(5)]


def read(path: Path, skip: bool = False) -> tuple[list[dict[str, Any]], BadRows]:
    bad = BadRows(skip)
    return [row.values for row in read_file(path, path.name, bad)], bad


def lines_of(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif ".csv" in path.name:
        cells = [[json.dumps(v, ensure_ascii=False) for v in row.values()] for row in rows]
        body = [",".join('"' + json.loads(v).replace('"', '""') + '"' for v in row) for row in cells]
        put(path, "\n".join(["prompt,response", *body]).encode())
    elif ".jsonl" in path.name or ".ndjson" in path.name:
        put(path, lines_of(rows))
    else:
        put(path, json.dumps(rows, indent=2, ensure_ascii=False).encode())
    return path


def put(path: Path, data: bytes) -> Path:
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize(
    "name", ["a.json", "a.jsonl", "a.ndjson", "a.csv", "a.parquet", "a.json.gz", "a.jsonl.gz", "a.csv.gz"]
)
def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    assert read(write(tmp_path / name, ROWS))[0] == ROWS


def test_json_lines_in_a_file_called_json_and_a_list_in_one_called_jsonl(tmp_path: Path) -> None:
    assert read(put(tmp_path / "a.json", lines_of(ROWS)))[0] == ROWS
    assert read(put(tmp_path / "a.jsonl", json.dumps(ROWS).encode()))[0] == ROWS


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv"])
def test_a_byte_order_mark_and_blank_lines_are_no_rows(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, ROWS)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes() + b"\n\n")
    assert read(path)[0] == ROWS


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv", "a.jsonl.gz"])
def test_an_empty_file_has_no_rows(tmp_path: Path, name: str) -> None:
    assert read(put(tmp_path / name, b""))[0] == []


@given(st.lists(st.dictionaries(st.text(max_size=3), st.text(max_size=40) | st.integers(), max_size=3), max_size=8))
def test_a_list_read_piece_by_piece_is_the_list(rows: list[dict[str, Any]]) -> None:
    """Pieces of 7 bytes cut numbers, escapes and characters in two."""
    import io

    from concordant.data import files

    before, files.CHUNK = files.CHUNK, 7
    try:
        found = files._json_list(io.BytesIO(json.dumps(rows, ensure_ascii=False).encode()), "a", BadRows(False))
        assert [row.values for row in found] == rows
    finally:
        files.CHUNK = before


def test_rows_know_their_place(tmp_path: Path) -> None:
    text = 'prompt,response\n"one\nand a half",a\n\nthree,b\n'
    rows = list(read_file(put(tmp_path / "a.csv", text.encode()), "a.csv", BadRows(False)))
    assert [row.where for row in rows] == ["a.csv line 2", "a.csv line 5"]
    rows = list(read_file(put(tmp_path / "a.json", b'[{"a": 1},\n{"a": 2}]'), "a.json", BadRows(False)))
    assert [row.where for row in rows] == ["a.json row 1", "a.json row 2"]


GOOD = b'{"prompt": "a", "response": "b"}\n'

DAMAGE = [
    ("a.jsonl", GOOD + b'{"prompt": "a"\n' + GOOD, "a.jsonl line 2: malformed JSON", 2),
    ("a.jsonl", GOOD + b'["a"]\n' + GOOD, "a.jsonl line 2: expected a JSON object with named columns, found", 2),
    ("a.jsonl", GOOD + b'{"prompt": "\xff"}\n' + GOOD, "a.jsonl line 2: not UTF-8 at byte 13 of the line", 2),
    ("a.jsonl", GOOD + b"[" * 100_000 + b"\n" + GOOD, "a.jsonl line 2: malformed JSON", 2),
    ("a.jsonl", GOOD + b'{"a": ' + b"9" * 5_000 + b"}\n" + GOOD, "a.jsonl line 2: malformed JSON", 2),
    ("a.jsonl", GOOD + b'{"a": 1, "b": 2, "a": 1}\n' + GOOD, 'a.jsonl line 2: the key "a" stands twice in one', 2),
    ("a.jsonl", GOOD + b'{"a": [{"b": 1, "b": 2}]}\n' + GOOD, 'a.jsonl line 2: the key "b" stands twice', 2),
    ("a.jsonl", b'[{"a": 1, "a": 2}, }\n'[1:] + GOOD, "a.jsonl line 1: malformed JSON", 1),
    ("a.json", b'[{"a": 1},\n{"a": 2, "a": 3},\n{"a": 4}]', 'a.json row 2: the key "a" stands twice', 2),
    ("a.json", b'[{"a": 1},\n{"a": 2},\n{"a" 3}]', "a.json line 3: malformed JSON after row 2", 2),
    ("a.json", b'[{"a": 1},\n{"a": 2}', "a.json line 2: malformed JSON after row 2", 2),
    ("a.json", b'[{"a": 1}\n{"a": 2}]', "a.json line 2: malformed JSON after row 1, expected ','", 1),
    ("a.json", b'[{"a": 1},\n{"a": "\xff"},\n{"a": 3}]', "a.json line 2: not UTF-8, in row 2", 2),
    ("a.json", b'[{"a": 1},\n7,\n{"a": 3}]', "a.json row 2: expected a JSON object with named columns, found 7", 2),
    ("a.json", b'[{"a": 1},\n' + b"[" * 100_000, "a.json line 2: malformed JSON after row 1", 1),
    ("a.csv", b"a,b\n1,2\n1,2,3\n3,4\n", "a.csv line 3: 3 fields, but the header has 2", 2),
    ("a.csv", b'a,b\n1,2\n3,"4\n', "a.csv line 3: malformed CSV", 1),
    ("a.csv", b"a,b\n1,2\n\xff,2\n3,4\n", "a.csv line 3: not UTF-8 at byte 1", 2),
]


@pytest.mark.parametrize(("name", "data", "message", "survivors"), DAMAGE)
def test_damage_is_named_or_counted(tmp_path: Path, name: str, data: bytes, message: str, survivors: int) -> None:
    path = put(tmp_path / name, data)
    with pytest.raises(UserError) as caught:
        read(path)
    assert str(caught.value).startswith(message)
    assert "--data.skip_bad_rows=true" in str(caught.value)
    rows, bad = read(path, skip=True)
    assert len(rows) == survivors
    assert bad.counts.total() == 1


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.json.gz", "a.csv.gz"])
def test_a_truncated_gzip_file_keeps_what_came_before(tmp_path: Path, name: str) -> None:
    rows = [{"prompt": str(i), "response": str(derive(0, i))} for i in range(6_000)]
    path = write(tmp_path / name, rows)
    path.write_bytes(path.read_bytes()[:-1_000])
    with pytest.raises(UserError, match=rf"{name} line \d+: the gzip file is truncated or damaged"):
        read(path)
    kept, bad = read(path, skip=True)
    assert 4_000 < len(kept) < 6_000
    assert kept == rows[: len(kept)]
    assert bad.counts.total() == 1


def test_a_flipped_byte_in_a_gzip_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl.gz", ROWS)
    data = bytearray(path.read_bytes())
    data[-6] ^= 1  # in the checksum
    path.write_bytes(data)
    with pytest.raises(UserError, match="a.jsonl.gz line 11: the gzip file is truncated or damaged|a.jsonl.gz line"):
        read(path)


def test_a_truncated_parquet_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", ROWS)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match="a.parquet row 1: the Parquet file is truncated or damaged"):
        read(path)


def test_a_column_twice_in_the_header(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a.csv line 1: a column name stands twice in the header \(a, a\)"):
        read(put(tmp_path / "a.csv", b"a,a\n1,2\n"))


def test_a_pickle_is_refused_and_never_opened(tmp_path: Path) -> None:
    import pickle

    canary = tmp_path / "canary"

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return canary.touch, ()

    path = tmp_path / "rows.pkl"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(UserError, match="rows.pkl: refused, since opening a pickle can run code"):
        read(path)
    assert not canary.exists()


def test_an_unknown_kind_of_file_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='unknown kind of data file ".jsnl". Did you mean ".jsonl"?'):
        read(put(tmp_path / "a.jsnl", b""))


# -- sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("schema", [True, False])
def test_a_text_that_a_parquet_page_holds_once_for_many_rows_is_unpacked_row_by_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nested: bool, schema: bool
) -> None:
    """No part of a batch is larger than the limit, and only the row that is larger by itself is refused."""
    monkeypatch.setattr(parquet, "LONGEST_ROW", 10_000)
    parts: list[int] = []
    values = parquet._parquet_values

    def watched(batch: pa.RecordBatch, *more: Any) -> Any:
        parts.append(len(json.dumps(batch.to_pylist())))
        return values(batch, *more)

    monkeypatch.setattr(parquet, "_parquet_values", watched)
    texts = ["a" * 4_000 if i != 20 else "a" * 20_000 for i in range(50)]
    column = [[{"role": "user", "content": text}] for text in texts] if nested else texts
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"prompt": column}), path, store_schema=schema)
    assert path.stat().st_size < 20_000
    with pytest.raises(UserError, match="a.parquet row 21: larger than"):
        read(path)
    rows, bad = read(path, skip=True)
    assert [row["prompt"] for row in rows] == [c for i, c in enumerate(column) if i != 20]
    assert bad.counts == {"row too large": 1}
    assert max(parts) < 11_000


def test_a_parquet_column_that_unpacks_to_thousands_of_times_its_size_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "BOMB_SIZE", 1 << 20)
    for name, text in (("bomb", "a" * (1 << 22)), ("data", "".join(str(derive(0, i)) for i in range(60_000)))):
        pq.write_table(pa.table({"prompt": [text]}), tmp_path / f"{name}.parquet", compression="zstd")
    with pytest.raises(UserError, match=r'refused, the column "prompt" unpacks from \d+ to 4,194,\d+ bytes'):
        read(tmp_path / "bomb.parquet")
    assert len(read(tmp_path / "data.parquet")[0]) == 1


def test_dictionaries_change_no_value(tmp_path: Path) -> None:
    """Texts, bytes, lists and objects of texts, nulls: as without a dictionary."""
    rows = [
        {"a": "x", "b": b"\x00\xff", "c": ["x", None, "y"], "d": {"e": "x", "f": [{"g": "é"}]}, "h": 1},
        {"a": None, "b": None, "c": [], "d": {"e": None, "f": None}, "h": None},
        {"a": "", "b": b"", "c": None, "d": None, "h": 2},
    ] * 40
    table = pa.Table.from_pylist(rows)
    for dictionary in (True, False):
        pq.write_table(table, tmp_path / "a.parquet", use_dictionary=dictionary)
        assert read(tmp_path / "a.parquet")[0] == rows
