"""Findings on the terminal: the gravest first. Text from data is shown as it is, never as markup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.text import Text

from concordant.doctor.finding import SEVERITIES, Finding, Severity
from concordant.report.blocks import plain

COLOUR: dict[Severity, str] = {"info": "cyan", "warning": "yellow", "error": "bold red"}
NAMES: dict[Severity, str] = {"info": "note", "warning": "warning", "error": "error"}


def by_gravity(findings: Sequence[Finding]) -> list[Finding]:
    """Errors, then warnings, then the rest; each in the order found."""
    return sorted(findings, key=lambda f: -SEVERITIES.index(f.severity))


def finding_text(finding: Finding) -> Text:
    """What was seen, why it matters, the likely cause, the cure, the page; of a note what was seen and the cure."""
    where = "" if finding.step is None else f"step {finding.step}: "
    text = Text.assemble((f"{finding.severity} {finding.rule}", COLOUR[finding.severity]), "  ")
    text.append(where + _line(finding.seen))
    rows = [("why", finding.why), ("cause", finding.cause), ("cure", finding.cure)]
    for label, words in rows[2:] if finding.severity == "info" else rows:
        text.append(f"\n  {label:<5} ", "bold" if label == "cure" else "dim")
        text.append(_line(words))
    text.append(f"\n  {finding.page}", "dim")
    return text


def facts_text(facts: Mapping[str, str]) -> Text:
    """``name  value``, a line each."""
    width = max(map(len, facts), default=0)
    return Text("\n").join(Text.assemble((f"{name:<{width}}  ", "dim"), _line(value)) for name, value in facts.items())


def verdict(findings: Sequence[Finding]) -> str:
    """``1 error, 2 warnings``, or that nothing was found."""
    counts = {s: sum(f.severity == s for f in findings) for s in reversed(SEVERITIES)}
    words = [f"{n} {NAMES[s]}{'' if n == 1 else 's'}" for s, n in counts.items() if n]
    return ", ".join(words) or "nothing found"


def _line(text: str) -> str:
    return " ".join(plain(text).split())
