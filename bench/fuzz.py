"""Thousands of seeded bad inputs: each must be read, or refused in a sentence. No traceback, no hang, balanced books.

    python -m bench.fuzz [--count 5000] [--folders 200] [--seed 0] [--verb all] [--keep FOLDER]

An input is a file of rows of a random format, damaged in ways of ``DAMAGE``. Each input is given to ``prepare``, to
``doctor`` and to ``sft``, which trains one step. A finding is an exception that is no UserError, a traceback, an exit
code that does not fit, more than ``SECONDS`` seconds of work, or a data card whose rows do not add up. ``--keep`` saves
the findings. At the end ``bench/fuzz_models.py`` gives hostile model folders to the verbs that open one.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import gzip
import io
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bench.fuzz_models import make_originals
from concordant.cli import main as concordant
from concordant.config.data import DataConfig
from concordant.config.stages import PrepareConfig
from concordant.core.errors import UserError
from concordant.data.formats import FORMATS
from concordant.data.prepare import prepare

SECONDS = 20  # of work for a file of a few rows
WAITING = 10  # times as many seconds may pass, because other processes may keep the processors busy
FOUND = "FOUND"
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
        with contextlib.redirect_stdout(io.StringIO()):
            card = prepare(PrepareConfig(data=data, output=str(output)))
            card.show()
    except UserError as error:
        str(error).encode("utf-8")  # a message that cannot be printed is a traceback too
        return "refused"
    dropped = sum(card.dropped.values())
    assert card.rows_read == card.rows_used + dropped, f"books: {card.rows_read} != {card.rows_used} + {dropped}"
    assert sum(card.rows.values()) == sum(card.kinds.values()), "books: records by side and by kind"
    # What is read back is sft/. Of rated answers it has the good ones alone, perhaps none on the training side. Of
    # prompts without an answer it has none: these are in rl/.
    if "rated answers" in card.kinds or ("prompts" in card.kinds and len(card.kinds) > 1):
        return "read"
    again = prepare(PrepareConfig(data=DataConfig(path=str(output)), output=str(output.with_name("again"))))
    assert again.rows == card.rows and not again.dropped, f"written and read back: {card.rows} became {again.rows}"
    return "read"


def command(arguments: list[str], codes: Sequence[int]) -> str:
    """Run a command of the command line. Raises where it shows a traceback, or where its code is none of ``codes``."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = concordant(arguments)
    text = said.getvalue()
    assert "Traceback (most recent" not in text and code in codes, f"exit code {code}: {text[-600:]}"
    return "refused" if code == 2 else "read"


def run_doctor(path: Path, output: Path, r: random.Random) -> str:
    more = ["--model.name", str(output.with_name("model"))] if r.random() < 0.5 else []
    return command(["doctor", str(path), *more], codes=(0, 1, 2))  # 1: it has found an error


def run_sft(path: Path, output: Path, r: random.Random) -> str:
    """One step on the input. Half of the runs skip bad rows."""
    options = {
        "model.name": output.with_name("model"), "model.device": "cpu", "data": path, "output": output.with_name("run"),
        "data.skip_bad_rows": r.random() < 0.5, "data.merge_turns": r.random() < 0.3,
        "responses": r.choice(["chosen", "both"]), "train.max_steps": 1, "train.batch_size": 2,
        "train.tensorboard": False, "doctor.preflight": r.random() < 0.5,
    }  # fmt: skip
    words = [f"--{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in options.items()]
    fate = command(["sft", *words], codes=(0, 2))
    assert fate == "refused" or (output.with_name("run") / "model" / "config.json").is_file(), "no model was written"
    return fate


VERBS: dict[str, Callable[[Path, Path, random.Random], str]] = {
    "prepare": run_prepare,
    "doctor": run_doctor,
    "sft": run_sft,
}


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--first", type=int, default=0, help="the number of the first input")
    parser.add_argument("--folders", type=int, default=200, help="hostile model folders at the end")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verb", choices=["all", *VERBS], default="all")
    parser.add_argument("--keep", type=Path, default=None, help="a folder for the inputs of findings")
    args = parser.parse_args(arguments)
    verbs = list(VERBS) if args.verb == "all" else [args.verb]
    fates: Counter[str] = Counter()

    with tempfile.TemporaryDirectory() as name:
        make_originals(Path(name))
        for number in range(args.first, args.first + args.count):
            for verb in verbs:
                fates[f"{verb}: {_try(number, verb, Path(name) / 'policy', args.seed, args.keep)}"] += 1
            if (number + 1) % 250 == 0:
                print(f"{number + 1} inputs", file=sys.stderr)
    told = ", ".join(f"{count} {fate}" for fate, count in sorted(fates.items()))
    print(f"seed {args.seed}: {args.count} inputs; {told}", file=sys.stderr)
    folders = 0
    if args.folders:  # in a process of its own, because it forks, and this one has threads by now
        told_to = ["--folders", str(args.folders), "--seed", str(args.seed)]
        folders = subprocess.run([sys.executable, "-m", "bench.fuzz_models", *told_to], check=False).returncode
    return 1 if folders or any(fate.endswith(FOUND) for fate in fates) else 0


def _try(number: int, verb: str, model: Path, seed: int, keep: Path | None) -> str:
    """What became of an input: "read", "refused" or ``FOUND``, which is told."""
    r = random.Random(f"{seed}/{number}")
    with tempfile.TemporaryDirectory() as folder:
        path = write_input(r, Path(folder))
        (Path(folder) / "model").symlink_to(model)
        _stop_after_seconds()
        try:
            return VERBS[verb](path, Path(folder) / "out", r)
        except BaseException as error:  # panics of compiled code and SystemExit are no Exception
            if isinstance(error, KeyboardInterrupt):
                raise
            last = traceback.extract_tb(error.__traceback__)[-1]
            said = f"{type(error).__name__}: {str(error)[:600]!r} at {last.filename}:{last.lineno}"
            print(f"{number} {verb}: {said}", file=sys.stderr)
            if keep:
                keep.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, keep / f"{number}-{path.name}")
            return FOUND
        finally:
            signal.alarm(0)


def _stop_after_seconds() -> None:
    """Raise an error in the main thread when the input has taken too long; ``signal.alarm(0)`` calls that off."""
    work, start = time.process_time() + SECONDS, time.monotonic()

    def look(signum: int, frame: object) -> None:
        if time.process_time() < work and time.monotonic() - start < SECONDS * WAITING:
            signal.alarm(SECONDS)
        else:
            raise TimeoutError(f"more than {SECONDS} s")

    signal.signal(signal.SIGALRM, look)
    signal.alarm(SECONDS)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
