"""The blocks of a report, before they are written as Markdown or HTML.

Every string in a block is plain text. A page escapes all text, so that no part of a prompt, an answer or a name can
become markup.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from concordant.data.records import Message

# C0 and C1 controls except tab and newline, lone surrogates, and marks that change the reading direction of text
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")


def plain(text: str) -> str:
    """``text`` with newlines as \\n and forbidden characters replaced by U+FFFD."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\u2028", "\n").replace("\u2029", "\n")
    return _UNPRINTABLE.sub("\ufffd", text)


@dataclass(frozen=True, slots=True)
class Heading:
    text: str


@dataclass(frozen=True, slots=True)
class Paragraph:
    text: str
    lead: bool = False  # True for the report's one-sentence result


@dataclass(frozen=True, slots=True)
class Bullets:
    items: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Definitions:
    items: tuple[tuple[str, str], ...]  # term, meaning


@dataclass(frozen=True, slots=True)
class Table:
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]  # the first cell names the row, the others are numbers


@dataclass(frozen=True, slots=True)
class Link:
    text: str
    target: str  # a relative path, with every special character as %XX, so that it can never be another address


@dataclass(frozen=True, slots=True)
class Card:
    """Facts about one thing, with links to its files."""

    title: str
    facts: tuple[tuple[str, str], ...]  # name, fact
    links: tuple[Link, ...]


@dataclass(frozen=True, slots=True)
class Picture:
    file: str  # name in the report's folder
    alt: str
    caption: str
    dark: bytes  # the same picture as PNG for a dark page


@dataclass(frozen=True, slots=True)
class Answer:
    policy: str
    text: str
    figures: tuple[tuple[str, str], ...]  # name, number


@dataclass(frozen=True, slots=True)
class Sample:
    """One prompt with every policy's answer."""

    number: int
    prompt: tuple[Message, ...]
    answers: tuple[Answer, ...]


@dataclass(frozen=True, slots=True)
class Code:
    text: str


Block = Heading | Paragraph | Bullets | Definitions | Table | Card | Picture | Sample | Code
