"""Thousands of seeded bad inputs: each must be read, or refused in a sentence. No traceback, no hang, balanced books.

    python -m bench.fuzz [--count 5000] [--seed 0] [--verb prepare] [--keep FOLDER]

An input is a file of rows of a random format, damaged in ways of ``DAMAGE``. A finding is an exception that is no
UserError, more than ``SECONDS`` seconds, or a data card whose rows do not add up. ``--keep`` saves the findings.
"""

from __future__ import annotations

import argparse
import copy
import gzip
import json
import random
import shutil
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from concordant.config.data import DataConfig
from concordant.config.stages import PrepareConfig
from concordant.core.errors import UserError
from concordant.data.formats import FORMATS
from concordant.data.prepare import prepare

SECONDS = 20  # for a file of a few rows
Rows = list[dict[str, Any]]

# Values that files can hold and that some code, somewhere, does not expect.
ODD: tuple[Any, ...] = (
    None, "", " ", 0, -1, 2**63, 2**64, 10**400, 1e308, float("nan"), float("inf"), True, [], {}, [[]], [None], [{}],
    "\ud800", "\x00", "\x1b[31m", "a" * 10_000, "[", "[{", '[{"role": "user"}]', "{", "null", "[1, 2]", "\ufeff",
    {"role": "user"}, {"content": 1}, [{"role": "user", "content": None}], [{"role": "tool", "content": "x"}],
    [{"role": "assistant", "content": "x", "weight": 0}], [{"from": "human", "value": "x"}], [["a", "b"]], [["a"]],
    "\n\nHuman:", "\n\nHuman: q\n\nAssistant:", "\n\nAssistant: a", "Human: q\n\nAssistant: a", {"\ud800": 1}, 7, "7",
    [[[[[[[[]]]]]]]], {"a": {"a": {"a": {}}}},
)  # fmt: skip
NAMES = (
    "system", "tools", "label", "weight", "rank", "history", "margin", "probability", "extra_info", "reward_model",
    "\ud800", "", "a b", "\x1b[31m", "rejected_response", "messages", "text", "score", "first_response",
    "reasoning_content",
)  # fmt: skip


def nested(depth: int) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = [value]
    return value


def odd(r: random.Random) -> Any:
    return nested(r.choice([40, 400, 900])) if r.random() < 0.03 else copy.deepcopy(r.choice(ODD))


def some_rows(r: random.Random) -> Rows:
    """A few good rows of one format, the words of each its own."""
    form = r.choice(list(FORMATS.values()))
    rows: Rows = []
    for i in range(r.randint(1, 5)):
        rows += json.loads(json.dumps([form.example, *form.more]).replace("joke", f"joke {i}"))
    return rows


def odd_value(r: random.Random, rows: Rows) -> Rows:
    row = r.choice(rows)
    row[r.choice(list(row) or NAMES)] = odd(r)
    return rows


def odd_inside(r: random.Random, rows: Rows) -> Rows:
    """A value somewhere within a list or an object becomes another."""
    place: Any = r.choice(rows)
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return rows
        key = r.choice(keys)
        if not isinstance(place[key], dict | list) or r.random() < 0.3:
            place[key] = odd(r)
            return rows
        place = place[key]


def odd_column(r: random.Random, rows: Rows) -> Rows:
    for row in rows if r.random() < 0.5 else [r.choice(rows)]:
        row[r.choice(NAMES)] = odd(r)
    return rows


def lost_column(r: random.Random, rows: Rows) -> Rows:
    row = r.choice(rows)
    if row:
        row.pop(r.choice(list(row)))
    return rows


def mixed(r: random.Random, rows: Rows) -> Rows:
    rows += some_rows(r)
    r.shuffle(rows)
    return rows


def untouched(r: random.Random, rows: Rows) -> Rows:
    return rows


DAMAGE: tuple[Callable[[random.Random, Rows], Rows], ...] = (
    odd_value, odd_value, odd_inside, odd_inside, odd_column, odd_column, lost_column, mixed, untouched,
)  # fmt: skip


def as_json(rows: Rows, name: str) -> bytes:
    texts = [json.dumps(row) for row in rows]
    return ("[" + ",\n".join(texts) + "]" if ".jsonl" not in name else "\n".join(texts) + "\n").encode()


def as_csv(rows: Rows) -> bytes:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[v if isinstance(v := row.get(c, ""), str) else json.dumps(v) for c in columns] for row in rows]
    lines = [",".join('"' + cell.replace('"', '""') + '"' for cell in line) for line in [columns, *cells]]
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def broken_bytes(r: random.Random, data: bytes) -> bytes:
    """Bytes flipped, cut off or repeated."""
    if not data:
        return data
    way, at = r.randrange(4), r.randrange(len(data))
    if way == 0:
        return data[:at]
    if way == 1:
        return data[:at] + bytes([r.randrange(256)]) + data[at + 1 :]
    if way == 2:
        return data[:at] + data[at:] * 2
    return data[:at] + r.randbytes(r.randint(1, 8)) + data[at:]


def write_input(r: random.Random, folder: Path) -> Path:
    """A file of rows, damaged; its name tells its kind."""
    rows = some_rows(r)
    for _ in range(r.choice([1, 1, 2, 3])):
        rows = r.choice(DAMAGE)(r, rows)
    path = folder / r.choice(["a.jsonl", "a.jsonl", "a.json", "a.csv", "a.parquet", "a.jsonl.gz", "a.json.gz"])
    if path.suffix == ".parquet":
        try:
            pq.write_table(pa.Table.from_pylist(rows), path)
        except (pa.ArrowException, ValueError, OverflowError, TypeError):  # Arrow cannot hold these: JSON can
            path = folder / "a.jsonl"
    data = path.read_bytes() if path.exists() else as_csv(rows) if path.suffix == ".csv" else as_json(rows, path.name)
    if path.suffix == ".gz":
        data = gzip.compress(data)
    path.write_bytes(broken_bytes(r, data) if r.random() < 0.35 else data)
    return path


def run_prepare(path: Path, output: Path, r: random.Random) -> str:
    """What became of it: "read" or "refused". Raises where the books do not balance."""
    data = DataConfig(
        path=str(path),
        skip_bad_rows=r.random() < 0.5,
        merge_turns=r.random() < 0.3,
        pairs=r.choice(["best_worst", "all"]),
    )
    try:
        card = prepare(PrepareConfig(data=data, output=str(output)))
        card.show()
    except UserError as error:
        str(error).encode("utf-8")  # a message that cannot be printed is a traceback too
        return "refused"
    dropped = sum(card.dropped.values())
    assert card.rows_read == card.rows_used + dropped, f"books: {card.rows_read} != {card.rows_used} + {dropped}"
    assert sum(card.rows.values()) == sum(card.kinds.values()), "books: records by side and by kind"
    again = prepare(PrepareConfig(data=DataConfig(path=str(output)), output=str(output.with_name("again"))))
    if "rated answers" in card.kinds:  # sft/ has the good ones alone
        return "read"
    assert again.rows == card.rows and not again.dropped, f"written and read back: {card.rows} became {again.rows}"
    return "read"


VERBS: dict[str, Callable[[Path, Path, random.Random], str]] = {"prepare": run_prepare}


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verb", choices=list(VERBS), default="prepare")
    parser.add_argument("--keep", type=Path, default=None, help="a folder for the inputs of findings")
    args = parser.parse_args(arguments)
    fates: Counter[str] = Counter()

    def too_long(signum: int, frame: object) -> None:
        raise TimeoutError(f"more than {SECONDS} s")

    signal.signal(signal.SIGALRM, too_long)
    for number in range(args.count):
        r = random.Random(f"{args.seed}/{number}")
        with tempfile.TemporaryDirectory() as folder:
            path = write_input(r, Path(folder))
            signal.alarm(SECONDS)
            try:
                fates[VERBS[args.verb](path, Path(folder) / "out", r)] += 1
            except BaseException as error:  # panics of compiled code and SystemExit are no Exception
                if isinstance(error, KeyboardInterrupt):
                    raise
                fates["FOUND"] += 1
                last = traceback.extract_tb(error.__traceback__)[-1]
                print(
                    f"{number}: {type(error).__name__}: {str(error)[:200]!r} at {last.filename}:{last.lineno}",
                    file=sys.stderr,
                )
                if args.keep:
                    args.keep.mkdir(parents=True, exist_ok=True)
                    shutil.copy(path, args.keep / f"{number}-{path.name}")
            finally:
                signal.alarm(0)
    print(
        f"seed {args.seed}: {args.count} inputs, {', '.join(f'{n} {fate}' for fate, n in fates.items())}",
        file=sys.stderr,
    )
    return 1 if fates["FOUND"] else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
