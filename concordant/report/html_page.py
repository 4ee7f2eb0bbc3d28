"""Writes blocks as one HTML file that contains its pictures, has no script and loads nothing.

``element`` escapes every child that is not an ``Element``, so that text never becomes markup.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path

from concordant.report.blocks import (
    Answer,
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

VOID = {"meta", "img", "source"}

# The policy allows only what the page needs. So even an error in the escaping could not run or load anything.
SECURITY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

STYLE = """
:root { color-scheme: light dark; --ink: #1d2430; --soft: #5b6472; --line: #d9dee6; --page: #fff; --card: #f6f8fa;
  --accent: #0b62a8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ee; --soft: #9aa5b4; --line: #343c48; --page: #14181e; --card: #1c222b; --accent: #6db3f2; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 76rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
p, li, dd { max-width: 48rem; overflow-wrap: anywhere; }
a { color: var(--accent); }
h1 { font-size: 1.8rem; line-height: 1.2; margin: .5rem 0 1rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .75rem; padding-top: 1rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 0 0 .5rem; color: var(--soft); font-weight: 600; overflow-wrap: anywhere; }
.lead { font-size: 1.15rem; border-left: 4px solid var(--accent); padding-left: 1rem; }
.scroll { overflow-x: auto; margin: 1rem 0; } figure .scroll { margin: 0; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .45rem .5rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
th:first-child { text-align: left; } tbody th { overflow-wrap: anywhere; min-width: 6rem; }
thead th { color: var(--soft); font-weight: 600; vertical-align: bottom; }
td span span { white-space: nowrap; } .interval { color: var(--soft); font-size: .85em; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .3rem 1rem; font-size: .9rem; margin: .5rem 0; }
dt { font-weight: 600; } dd { margin: 0; color: var(--soft); }
figure { margin: 1.5rem 0; } figcaption { color: var(--soft); font-size: .9rem; max-width: 48rem; margin-top: .4rem; }
img { display: block; max-width: 100%; height: auto; border: 1px solid var(--line); border-radius: 6px; }
section { border: 1px solid var(--line); border-radius: 8px; padding: 1rem; margin: 1rem 0; }
.files a { margin-right: .6rem; }
.turn, .text { white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: plaintext; margin: 0 0 .5rem; }
.role { color: var(--soft); font-weight: 600; }
.answers { display: grid; gap: .75rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 17rem), 1fr)); }
.answer { background: var(--card); border-radius: 6px; padding: .75rem; }
.answer h4 { margin: 0 0 .35rem; font-size: .95rem; overflow-wrap: anywhere; }
.figures { color: var(--soft); font-size: .85rem; margin: 0; }
pre { background: var(--card); padding: .75rem; border-radius: 6px; white-space: pre-wrap; overflow-wrap: anywhere; }
@media (max-width: 46rem) {
  thead { position: absolute; clip-path: inset(50%); width: 1px; height: 1px; overflow: hidden; }
  tbody, tr, tbody th { display: block; }
  tbody th { font-size: 1.05rem; text-align: left; border: 0; padding: .6rem .6rem .1rem; }
  tr { border: 1px solid var(--line); border-radius: 8px; margin: .75rem 0; padding-bottom: .3rem; }
  td { display: flex; justify-content: space-between; gap: 1rem; border: 0; padding: .15rem .6rem; }
  td::before { content: attr(data-label); color: var(--soft); text-align: left; }
  dl { grid-template-columns: 1fr; } dd { margin-bottom: .4rem; }
  img { max-width: none; width: 44rem; } }
"""


class Element(str):
    """Markup made by ``element``. This is the only text that is not escaped."""


def element(name: str, /, *children: str, **attributes: str) -> Element:
    """``<name attributes>children</name>``. ``class_`` means class; an underscore inside a name means a hyphen."""
    pairs = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items()}
    opening = name + "".join(f' {key}="{html.escape(plain(value))}"' for key, value in pairs.items())
    if name in VOID:
        return Element(f"<{opening}>")
    inside = "".join(c if isinstance(c, Element) else html.escape(plain(c)) for c in children)
    return Element(f"<{opening}>{inside}</{name}>")


def render_html(title: str, blocks: Sequence[Block], folder: Path) -> str:
    """The HTML page. Pictures are read from ``folder``."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=SECURITY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        Element(f"<style>{STYLE}</style>"),
    )
    main = element("main", element("h1", title), *(_block(b, folder) for b in blocks))
    return "<!DOCTYPE html>\n" + element("html", head, element("body", main), lang="en") + "\n"


def _block(block: Block, folder: Path) -> Element:
    match block:
        case Heading():
            return element("h2", block.text)
        case Paragraph():
            return element("p", block.text, class_="lead") if block.lead else element("p", block.text)
        case Bullets():
            return element("ul", *(element("li", item) for item in block.items))
        case Definitions():
            return element("dl", *(x for t, meaning in block.items for x in (element("dt", t), element("dd", meaning))))
        case Table():
            return _table(block)
        case Card():
            return _card(block)
        case Picture():
            return _picture(block, folder)
        case Sample():
            return _sample(block)
        case Code():
            return element("pre", element("code", block.text))


def _table(table: Table) -> Element:
    """A table inside a box that scrolls if the table is wider than the page. On a phone each row is a card."""
    head = element("tr", *(element("th", cell, scope="col") for cell in table.header))
    rows = []
    for name, *cells in table.rows:
        numbers = (_cell(cell, label) for cell, label in zip(cells, table.header[1:], strict=True))
        rows.append(element("tr", element("th", name, scope="row"), *numbers))
    return element("div", element("table", element("thead", head), element("tbody", *rows)), class_="scroll")


def _cell(cell: str, label: str) -> Element:
    """A number. Its interval does not break in the middle, and may stand below the number."""
    number, space, interval = cell.partition(" [")
    inside = [element("span", number)]
    inside += [Element(" "), element("span", f"[{interval}", class_="interval")] if space else []
    return element("td", element("span", *inside), data_label=label)


def _card(card: Card) -> Element:
    facts = [x for name, fact in card.facts for x in (element("dt", name), element("dd", fact))]
    links = [x for link in card.links for x in (element("a", link.text, href=link.target), " ")]
    files = [element("dt", "files"), element("dd", *links, class_="files")] if links else []
    return element("section", element("h3", card.title), element("dl", *facts, *files), class_="card")


def _picture(picture: Picture, folder: Path) -> Element:
    light, dark = _data(folder.joinpath(picture.file).read_bytes()), _data(picture.dark)
    image = element(
        "picture",
        element("source", srcset=dark, media="(prefers-color-scheme: dark)"),
        element("img", src=light, alt=picture.alt),
    )
    return element("figure", element("div", image, class_="scroll"), element("figcaption", picture.caption))


def _data(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _sample(sample: Sample) -> Element:
    turns = (
        element("p", element("span", f"{m.role}: ", class_="role"), m.content, class_="turn") for m in sample.prompt
    )
    answers = element("div", *(_answer(a) for a in sample.answers), class_="answers")
    return element("section", element("h3", f"Prompt {sample.number}"), *turns, answers, class_="sample")


def _answer(answer: Answer) -> Element:
    figures = " · ".join(f"{name} {number}" for name, number in answer.figures)
    return element(
        "div",
        element("h4", answer.policy),
        element("p", answer.text, class_="text"),
        element("p", figures, class_="figures"),
        class_="answer",
    )
