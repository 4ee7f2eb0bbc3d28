"""``concordant doctor --explain RULE``: the pages that explain the findings, which are part of the package.

``doctor/pages/RULE.md`` is the only copy of a page. The documentation shows the same files.
"""

from __future__ import annotations

import re
from pathlib import Path
from shutil import get_terminal_size
from textwrap import shorten

from concordant.core.errors import UserError, nearest

PAGES = Path(__file__).resolve().parent / "pages"
SYMPTOMS = "symptoms"  # the one page that explains no rule: it leads from symptoms to rules
ALL = "all"
_LINK = re.compile(r"\[([^\]]+)\]\(([^)\s]+)\)")
_BEFORE = "Before a run, or in a file: "  # how the section begins where a rule speaks during a run too
_SENTENCE_END = re.compile(r"(?<=[.!?]) ")


def rules() -> list[str]:
    """The names of all rules that have a page, sorted."""
    return sorted(page.stem for page in PAGES.glob("*.md") if page.stem != SYMPTOMS)


def explain(name: str) -> str:
    """The page of the rule ``name`` as text for a terminal; for ``all`` the list of rules.

    Raises UserError with the nearest rule for an unknown name.
    """
    if name == ALL:
        return overview()
    names = [*rules(), SYMPTOMS]
    if name not in names:
        raise UserError(
            f'the doctor has no rule "{name}".{nearest(name, names)} `concordant doctor --explain` lists all rules'
        )
    return _LINK.sub(_as_text, (PAGES / f"{name}.md").read_text(encoding="utf-8")).rstrip()


def overview() -> str:
    """One line for each rule, cut to the width of the terminal: its name and the first sentence of its page."""
    width = max(60, min(110, get_terminal_size((110, 24)).columns))
    names = rules()
    column = max(map(len, names))
    lines = [
        f"{name:<{column}}  {shorten(_first_sentence(name), width - column - 2, placeholder=' …')}" for name in names
    ]
    more = [
        "concordant doctor --explain RULE prints the page of a rule,",
        f"concordant doctor --explain {SYMPTOMS} a table from symptoms to rules.",
    ]
    return "\n".join([*lines, "", *more])


def _first_sentence(name: str) -> str:
    """Of the section "Seen", which says when the rule speaks."""
    seen = (PAGES / f"{name}.md").read_text(encoding="utf-8").partition("## Seen")[2].partition("\n## ")[0]
    sentence = _SENTENCE_END.split(" ".join(seen.split()), 1)[0].removeprefix(_BEFORE)
    return sentence[0].upper() + sentence[1:]


def _as_text(link: re.Match[str]) -> str:
    """A link to another page as the name that ``--explain`` takes, or as the path of a page of the documentation."""
    text, target = link[1], link[2]
    path, _, _ = target.partition("#")
    if "/" not in path:
        page = path.removesuffix(".md")
        return text if text == page else f"{text} ({page})"
    return f"{text} ({path.removeprefix('../../../')})"
