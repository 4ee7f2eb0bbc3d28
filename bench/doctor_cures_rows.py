"""What a user does with the rows of a file when a cure says so: each deed takes rows and returns rows."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from html import unescape
from random import Random
from typing import Any, TypeVar

from concordant.data.records import Message
from concordant.data.toytalk import gold_score

T = TypeVar("T")
Row = dict[str, Any]
READ = 10  # pairs that a user reads to see which answer is the better one


def flipped(row: Row) -> Row:
    return {**row, "chosen": row["rejected"], "rejected": row["chosen"]}


def read_ten(items: Sequence[T]) -> list[T]:
    """Ten items, evenly spread."""
    return [items[i * len(items) // READ] for i in range(READ)] if len(items) >= READ else list(items)


def is_exchanged(texts: Sequence[tuple[tuple[Message, ...], str, str]]) -> bool:
    """Whether somebody who reads (prompt, chosen, rejected) finds the rejected answers better, all in all."""
    return sum(gold_score(prompt, chosen) - gold_score(prompt, rejected) for prompt, chosen, rejected in texts) < 0


def rows_are_exchanged(rows: Sequence[Row]) -> bool:
    read = read_ten(rows)
    return is_exchanged([((Message("user", r["prompt"]),), r["chosen"], r["rejected"]) for r in read])


def exchange(rows: list[Row]) -> list[Row]:
    return [flipped(row) for row in rows] if rows_are_exchanged(rows) else rows


def exchange_half(rows: list[Row]) -> list[Row]:
    half = len(rows) // 2
    return exchange(rows[:half]) + exchange(rows[half:])


def without_repeats(rows: list[Row]) -> list[Row]:
    return [json.loads(text) for text in dict.fromkeys(json.dumps(row, sort_keys=True) for row in rows)]


def one_row_of_each_pair(rows: list[Row]) -> list[Row]:
    first: dict[Any, Row] = {}
    for row in rows:
        first.setdefault((row["prompt"], frozenset((row["chosen"], row["rejected"]))), row)
    return list(first.values())


def without_mark(text: str, mark: str) -> str:
    """``text`` without what a finding calls a mark: '"thanks"' anywhere, or '"thanks" at the end'."""
    said = re.match(r'"(?P<token>.+)"(?: at the (?P<where>start|end))?', mark)
    assert said is not None
    token = re.escape(said["token"])
    token = rf"\b{token}\b" if said["token"].isalnum() else token
    where = {"start": rf"\A\s*{token}", "end": rf"{token}\s*\Z", None: token}[said["where"]]
    return " ".join(re.sub(where, "", text, flags=re.IGNORECASE).split())


SIDES = ("chosen", "rejected", "response")


def of_answers(change: Callable[[str], str]) -> Callable[[list[Row]], list[Row]]:
    """Rows whose answers are changed."""
    return lambda rows: [{k: change(v) if k in SIDES else v for k, v in row.items()} for row in rows]


def without_tags(text: str) -> str:
    """Plain text: no tags, and characters for entities."""
    return " ".join(unescape(re.sub(r"</?[a-zA-Z][^>]*>", " ", text)).split())


def without_template(text: str) -> str:
    """``text`` without the marks of a chat template and the roles behind them."""
    return re.sub(r"<\|[^|>]*\|>(?:(?:system|user|assistant)\n)?|\[/?INST\]", "", text).strip()


def rows_without_template(rows: list[Row]) -> list[Row]:
    return [{k: without_template(v) if isinstance(v, str) else v for k, v in row.items()} for row in rows]


def without_prompt(rows: list[Row]) -> list[Row]:
    return [{k: v.removeprefix(row["prompt"]).lstrip() if k in SIDES else v for k, v in row.items()} for row in rows]


def without_answer(rows: list[Row]) -> list[Row]:
    """Prompts that do not end with the answer."""
    return [{**row, "prompt": row["prompt"].rstrip().removesuffix(row["response"]).rstrip()} for row in rows]


def as_messages(rows: list[Row]) -> list[Row]:
    """Rows of messages, one for each turn that stands in the answer behind a line with a role."""
    made = []
    for row in rows:
        turns = [row["prompt"], *re.split(r"\n### (?:Question|Answer): ", row["response"])]
        roles = ("user", "assistant")
        made.append({"messages": [{"role": roles[i % 2], "content": text} for i, text in enumerate(turns)]})
    return made


def without_placeholders(rows: list[Row]) -> list[Row]:
    placeholder = Counter(row["response"] for row in rows).most_common(1)[0][0]
    return [row for row in rows if row["response"] != placeholder]


def without_cut(rows: list[Row]) -> list[Row]:
    """Rows whose answers end as sentences do."""
    return [row for row in rows if row["response"].rstrip().endswith((".", "!", "?"))]


def is_wrong(row: Row) -> bool:
    """Whether somebody who reads the pair finds its rejected answer better."""
    return is_exchanged([((Message("user", row["prompt"]),), row["chosen"], row["rejected"])])


def label_anew(rows: list[Row]) -> list[Row]:
    return [flipped(row) if is_wrong(row) else row for row in rows]


def balanced(items: Sequence[T], leads: Callable[[T], int]) -> list[T]:
    """As many items whose chosen answer is the longer one (``leads`` above 0) as of the other kind; ties are kept."""
    longer, shorter = ([i for i in items if sign * leads(i) > 0] for sign in (1, -1))
    few = min(len(longer), len(shorter))
    kept = {id(i) for side in (longer, shorter) for i in Random(0).sample(side, few)}
    return [i for i in items if leads(i) == 0 or id(i) in kept]


def margins_divided(rows: list[Row], by: float) -> list[Row]:
    return [{**row, "margin": row["margin"] / by} if "margin" in row else row for row in rows]
