"""Findings on the terminal, the most severe first. Text from data is shown as plain text, never as markup."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich.text import Text

from concordant.core.counted import counted
from concordant.doctor.finding import SEVERITIES, Finding, Severity
from concordant.doctor.monitor import ranked
from concordant.report.blocks import plain

COLOUR: dict[Severity, str] = {"info": "cyan", "warning": "yellow", "error": "bold red"}
NAMES: dict[Severity, str] = {"info": "note", "warning": "warning", "error": "error"}


def by_gravity(findings: Sequence[Finding]) -> list[Finding]:
    """Errors first, then warnings, then the rest; those of one severity in the order in which they were found."""
    return sorted(findings, key=lambda f: -SEVERITIES.index(f.severity))


def likeliest_first(findings: Sequence[Finding]) -> list[Finding]:
    """The order in which findings are shown: by the weight of their evidence, those of one weight by gravity."""
    return ranked(by_gravity(findings))


def findings_text(findings: Sequence[Finding]) -> Iterator[Text]:
    """The findings, the likeliest cause first. Where several fit, each says what would tell it from the others."""
    has_rivals = sum(finding.severity != "info" for finding in findings) > 1
    for finding in likeliest_first(findings):
        yield finding_text(finding, has_rivals)


def finding_text(finding: Finding, has_rivals: bool = False) -> Text:
    """The evidence, why it matters, the likely cause, the cure and the page. A note has no reason and no cause."""
    where = "" if finding.step is None else f"step {finding.step}: "
    text = Text.assemble((f"{finding.severity} {finding.rule}", COLOUR[finding.severity]), "  ")
    text.append(where + _line(finding.seen))
    rows = [("why", finding.why), ("cause", finding.cause), ("cure", finding.cure)]
    if has_rivals and finding.make_sure:
        rows.append(("sure", finding.make_sure))
    for label, words in [row for row in rows if finding.severity != "info" or row[0] == "cure"]:
        text.append(f"\n  {label:<5} ", "bold" if label == "cure" else "dim")
        text.append(_line(words))
    text.append(f"\n  more  {finding.command}", "dim")
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
    words = [counted(n, NAMES[s]) for s, n in counts.items() if n]
    found = ", ".join(words) or "nothing found"
    count = len(unseen or ())
    if not count:
        return found
    return f"{found}; {counted(count, 'rule')} did not run, because the log lacks their numbers"


def _line(text: str) -> str:
    return " ".join(plain(text).split())
