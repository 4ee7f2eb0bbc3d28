"""Writes blocks as Markdown. All text is escaped, so that no line of a text can start a Markdown block."""

from __future__ import annotations

import re
from collections.abc import Sequence

from concordant.report.blocks import (
    Block,
    Bullets,
    Card,
    Code,
    Definitions,
    Heading,
    Paragraph,
    Picture,
    Sample,
    Table,
    plain,
)

_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "\n": "<br>", "\t": " "}
_SPECIAL = re.compile(r"[\\`*_\[\]#|~$&<>\n\t]")
# Text that would start a list or draw a rule at the beginning of a line.
_LINE_START = re.compile(r"^([-+=]+|\d{1,9}[.)])(?=\s|$)")


def escape(text: str) -> str:
    """``text`` on one line, escaped for a paragraph, a list item or the cell of a table."""
    text = _SPECIAL.sub(lambda m: _ENTITIES.get(m[0], "\\" + m[0]), plain(text).strip())
    return _LINE_START.sub(lambda m: m[0][:-1] + "\\" + m[0][-1], text)


def render_markdown(title: str, blocks: Sequence[Block]) -> str:
    return "\n\n".join([f"# {escape(title)}", *map(_block, blocks)]) + "\n"


def _block(block: Block) -> str:
    match block:
        case Heading():
            return f"## {escape(block.text)}"
        case Paragraph():
            return f"**{escape(block.text)}**" if block.lead else escape(block.text)
        case Bullets():
            return "\n".join(f"- {escape(item)}" for item in block.items)
        case Definitions():
            return "\n".join(f"- **{escape(term)}**: {escape(meaning)}" for term, meaning in block.items)
        case Table():
            return _table(block)
        case Card():
            return _card(block)
        case Picture():
            return f"![{escape(block.alt)}]({block.file})\n\n{escape(block.caption)}"
        case Sample():
            return _sample(block)
        case Code():
            return "\n".join("    " + line for line in plain(block.text).split("\n"))


def _card(card: Card) -> str:
    facts = [f"- **{escape(name)}**: {escape(fact)}" for name, fact in card.facts]
    links = " · ".join(f"[{escape(link.text)}]({link.target})" for link in card.links)
    return "\n".join([f"### {escape(card.title)}", "", *facts, *([f"- **files**: {links}"] if links else [])])


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(escape(cell) for cell in cells) + " |"


def _table(table: Table) -> str:
    rule = "|---|" + "---:|" * (len(table.header) - 1)
    return "\n".join([_row(table.header), rule, *map(_row, table.rows)])


def _sample(sample: Sample) -> str:
    turns = [f"> **{escape(m.role)}:** {escape(m.content)}" for m in sample.prompt]
    figures = [name for name, _ in sample.answers[0].figures]
    rows = [_row([a.policy, a.text, *(number for _, number in a.figures)]) for a in sample.answers]
    table = [_row(["policy", "answer", *figures]), "|---|---|" + "---:|" * len(figures), *rows]
    return "\n\n".join([f"### Prompt {sample.number}", "\n>\n".join(turns), "\n".join(table)])
