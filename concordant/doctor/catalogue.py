"""The catalogue of all findings: ``pages/NAME.md`` is the only place where a finding is described.

A page says when the rule speaks, why that matters, the likely causes, the cure, and what is healthy. Its table of
limits has the thresholds with their units, and the rules read them from there. ``concordant doctor --explain NAME``
prints a page, and the documentation shows the same file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from shutil import get_terminal_size
from textwrap import shorten

from concordant.core.errors import UserError, nearest

PAGES = Path(__file__).resolve().parent / "pages"
SYMPTOMS = "symptoms"  # the one page that explains no finding: it leads from symptoms to findings
ALL = "all"
_LINK = re.compile(r"\[([^\]]+)\]\(([^)\s]+)\)")
_LIMIT = re.compile(r"^\| `(\w+)` \| ([-\d.,e]+) \|", re.MULTILINE)
_BEFORE = "Before a run, or in a file: "  # how a section begins where a rule speaks during a run too
_SENTENCE_END = re.compile(r"(?<=[.!?]) ")


@dataclass(frozen=True, slots=True)
class Entry:
    """What is said of a finding wherever it is found."""

    name: str
    why: str  # what goes wrong if nothing is done
    make_sure: str  # what tells this cause from others; "" where the evidence leaves no doubt
    limits: Mapping[str, float]  # thresholds by name; the page gives their units


def names() -> list[str]:
    """The names of all findings, sorted."""
    return sorted(page.stem for page in PAGES.glob("*.md") if page.stem != SYMPTOMS)


@cache
def entry(name: str) -> Entry:
    """The entry of the finding ``name``; an empty one for a finding of another version, which has no page here."""
    if name not in names():
        return Entry(name, "", "", {})
    limits = {key: float(value.replace(",", "")) for key, value in _LIMIT.findall(_section(name, "Limits"))}
    return Entry(name, _line(_section(name, "Why it matters")), _line(_section(name, "To make sure")), limits)


def limits(name: str) -> Mapping[str, float]:
    """The thresholds of the finding ``name``."""
    return entry(name).limits


def explain(name: str) -> str:
    """The page of the finding ``name`` as text for a terminal; for ``all`` the list of findings.

    Raises UserError with the nearest name for an unknown one.
    """
    if name == ALL:
        return overview()
    known = [*names(), SYMPTOMS]
    if name not in known:
        part_of = [rule for rule in known if name and name in rule]
        with_word = f" Rules with this word: {', '.join(part_of)}." if part_of else ""
        guess = nearest(name, known) or with_word
        raise UserError(f'the doctor has no rule "{name}".{guess} `concordant doctor --explain` lists all rules')
    return _LINK.sub(_as_text, _page(name)).rstrip()


def overview() -> str:
    """One line for each finding, cut to the width of the terminal: its name and the first sentence of its page."""
    width = max(60, min(110, get_terminal_size((110, 24)).columns))
    column = max(map(len, names()))
    lines = [
        f"{name:<{column}}  {shorten(_first_sentence(name), width - column - 2, placeholder=' …')}" for name in names()
    ]
    more = [
        "concordant doctor --explain RULE prints the page of a rule,",
        f"concordant doctor --explain {SYMPTOMS} a table from symptoms to rules.",
    ]
    return "\n".join([*lines, "", *more])


def _page(name: str) -> str:
    return (PAGES / f"{name}.md").read_text(encoding="utf-8")


def _section(name: str, title: str) -> str:
    return _page(name).partition(f"\n## {title}\n")[2].partition("\n## ")[0].strip()


def _line(text: str) -> str:
    """The first paragraph in one line, with links as their names."""
    return " ".join(_LINK.sub(_as_text, text.partition("\n\n")[0]).split())


def _first_sentence(name: str) -> str:
    """Of the section "Seen", which says when the rule speaks."""
    sentence = _SENTENCE_END.split(" ".join(_section(name, "Seen").split()), 1)[0].removeprefix(_BEFORE)
    return sentence[0].upper() + sentence[1:]


def _as_text(link: re.Match[str]) -> str:
    """A link to another page as the name that ``--explain`` takes, or as the path of a page of the documentation."""
    text, target = link[1], link[2]
    path, _, _ = target.partition("#")
    if "/" not in path:
        page = path.removesuffix(".md")
        return text if text == page else f"{text} ({page})"
    return f"{text} ({path.removeprefix('../../../')})"
