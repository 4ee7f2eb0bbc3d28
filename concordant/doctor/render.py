"""Findings on the terminal, the most severe first. Text from data is shown as plain text, never as markup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.text import Text

from concordant.doctor.finding import SEVERITIES, Finding, Severity
from concordant.report.blocks import plain

COLOUR: dict[Severity, str] = {"info": "cyan", "warning": "yellow", "error": "bold red"}
NAMES: dict[Severity, str] = {"info": "note", "warning": "warning", "error": "error"}


def by_gravity(findings: Sequence[Finding]) -> list[Finding]:
    """Errors first, then warnings, then the rest; those of one severity in the order in which they were found."""
    return sorted(findings, key=lambda f: -SEVERITIES.index(f.severity))


def finding_text(finding: Finding) -> Text:
    """The evidence, why it matters, the likely cause, the cure and the page. A note has no reason and no cause."""
    where = "" if finding.step is None else f"step {finding.step}: "
    text = Text.assemble((f"{finding.severity} {finding.rule}", COLOUR[finding.severity]), "  ")
    text.append(where + _line(finding.seen))
    rows = [("why", finding.why), ("cause", finding.cause), ("cure", finding.cure)]
    for label, words in rows[2:] if finding.severity == "info" else rows:
        text.append(f"\n  {label:<5} ", "bold" if label == "cure" else "dim")
        text.append(_line(words))
    text.append(f"\n  more  {finding.command}  (documentation: {finding.page})", "dim")
    return text


def facts_text(facts: Mapping[str, str]) -> Text:
    """One line ``name  value`` for each fact."""
    width = max(map(len, facts), default=0)
    return Text("\n").join(Text.assemble((f"{name:<{width}}  ", "dim"), _line(value)) for name, value in facts.items())


def unseen_text(unseen: Mapping[str, str]) -> Text:
    """The rules that did not run: a line for each group of rules that lack the same numbers."""
    groups: dict[str, list[str]] = {}
    for rule, lacks in unseen.items():
        groups.setdefault(lacks, []).append(rule)
    lines = [Text.assemble((f"  {_line(lacks)}: ", "dim"), ", ".join(rules)) for lacks, rules in groups.items()]
    return Text("\n").join([Text("not looked at, because the log lacks the numbers:", "dim"), *lines])


def verdict(findings: Sequence[Finding], unseen: Mapping[str, str] | None = None) -> str:
    """``1 error, 2 warnings``, or ``nothing found``, with the number of the rules that did not run."""
    counts = {s: sum(f.severity == s for f in findings) for s in reversed(SEVERITIES)}
    words = [f"{n} {NAMES[s]}{'' if n == 1 else 's'}" for s, n in counts.items() if n]
    found = ", ".join(words) or "nothing found"
    count = len(unseen or ())
    if not count:
        return found
    return f"{found}; {count} {'rule' if count == 1 else 'rules'} did not run, because the log lacks their numbers"


def _line(text: str) -> str:
    return " ".join(plain(text).split())
