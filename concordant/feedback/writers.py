"""Whoever answers a question in words: a server, a local model, and the cache before either of them.

A question is a dialogue that ends with the user. A writer gives every question a ``Reply``, or a ``Skip`` with the
reason why there is none.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from concordant.data.dialogue import Messages, as_object
from concordant.runs.logs import json_line, read_log

OUT_OF_BUDGET = "the budget is used up"


@dataclass(frozen=True, slots=True)
class Reply:
    text: str
    prompt_tokens: int = 0  # as the writer counts them; 0 where it does not say
    answer_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Skip:
    """A question without an answer."""

    reason: str  # what it is counted under
    detail: str = ""  # of this one question


Answered = Reply | Skip


class Writer(Protocol):
    identity: str  # everything on which an answer depends apart from the question: model, sampling, seed

    @property
    def stopped(self) -> str:
        """Why the writer answers no more questions in this command; "" as long as it does."""
        ...

    def write(self, questions: Sequence[Messages]) -> Iterator[tuple[int, Answered]]:
        """The answers as they come, each with the number of its question. Every question gets one."""
        ...


class Cache:
    """The replies of earlier questions in a file of JSON lines, by a hash of the question and of the writer.

    Every reply is one line, appended in one write and brought to the disk at once. So a kill loses the questions that
    are being answered and nothing else. A line that a kill or a bad disk has damaged is asked again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        log = read_log(path)
        self.complaint = log.complaint(path)
        self._replies = {str(row["hash"]): reply for row in log.rows if "hash" in row and (reply := _reply(row))}
        self._lock = threading.Lock()
        if path.is_file() and path.stat().st_size and not path.read_bytes().endswith(b"\n"):
            self._append("\n")  # the next line must not continue a torn one

    def __len__(self) -> int:
        return len(self._replies)

    def get(self, key: str) -> Reply | None:
        return self._replies.get(key)

    def add(self, key: str, reply: Reply) -> None:
        row = {"hash": key, "text": reply.text, "tokens": [reply.prompt_tokens, reply.answer_tokens]}
        with self._lock:
            self._append(json_line(row))
            self._replies[key] = reply

    def _append(self, line: str) -> None:
        file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            left = line.encode("utf-8", "backslashreplace")
            while left:
                left = left[os.write(file, left) :]
            os.fsync(file)
        finally:
            os.close(file)


def _reply(row: dict[str, Any]) -> Reply | None:
    text, tokens = row.get("text"), row.get("tokens")
    if not isinstance(text, str) or not (isinstance(tokens, list) and [*map(type, tokens)] == [int, int]):
        return None
    return Reply(text, *tokens)


def key_of(identity: str, question: Messages) -> str:
    """The hash of a question to one writer."""
    content = [identity, [as_object(message) for message in question]]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass(slots=True)
class Asking:
    """Questions to a writer, each asked once: a question that is in the cache is not asked again."""

    writer: Writer
    cache: Cache
    asked: int = 0  # questions that the writer answered in this command
    remembered: int = 0  # answers that came from the cache
    prompt_tokens: int = 0  # of the answered questions of this command
    answer_tokens: int = 0
    skipped: dict[str, str] = field(default_factory=dict)  # reason -> the detail of the first

    def __call__(self, questions: Sequence[Messages], tell: Callable[[int], None] = lambda n: None) -> list[Answered]:
        """An answer for every question. ``tell`` gets the number of those that have one, whenever it grows."""
        keys = [key_of(self.writer.identity, question) for question in questions]
        known: dict[str, Answered] = {key: reply for key in keys if (reply := self.cache.get(key)) is not None}
        self.remembered += len(known)
        left = {key: question for key, question in zip(keys, questions, strict=True) if key not in known}
        counts = Counter(keys)
        done = sum(key in known for key in keys)
        tell(done)
        wanted = list(left)
        for number, answered in self.writer.write(list(left.values())):
            key = wanted[number]
            known[key] = answered
            self._count(key, answered)
            done += counts[key]
            tell(done)
        return [known[key] for key in keys]

    def _count(self, key: str, answered: Answered) -> None:
        if isinstance(answered, Skip):
            self.skipped.setdefault(answered.reason, answered.detail)
            return
        self.cache.add(key, answered)
        self.asked += 1
        self.prompt_tokens += answered.prompt_tokens
        self.answer_tokens += answered.answer_tokens
