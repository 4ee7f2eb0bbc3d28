"""Runs the rules on a history while it grows, and reports each finding once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from concordant.doctor.finding import Finding, at_least
from concordant.doctor.history import NOTHING, Beside, History
from concordant.doctor.rules import RULES

EVERY_ROW = 200  # up to this row, the rules run at every row; later at every tenth, and at every evaluation
SPARSE = 10


class Monitor:
    """The doctor of one run, during the run or afterwards. The same rows give the same findings."""

    def __init__(self, config: Mapping[str, Any], beside: Beside = NOTHING) -> None:
        self.history = History(config, beside)
        self.findings: dict[str, Finding] = {}  # by rule, each at the greatest severity so far

    def see(self, row: Mapping[str, Any]) -> list[Finding]:
        """The findings that are new at this row, or more severe than before."""
        self.history.add(row)
        if self.history.rows > EVERY_ROW and self.history.rows % SPARSE and "seconds/evaluate" not in row:
            return []
        return [finding for rule in RULES if (finding := rule(self.history)) and self._is_news(finding)]

    def ranked(self) -> list[Finding]:
        """Likely root causes first."""
        return ranked(self.findings.values())

    def unseen(self) -> dict[str, str]:
        """The rules that could not look at the run, each with the numbers that it lacks."""
        lacking = {rule.name: rule.lacks(self.history) for rule in RULES if rule.name not in self.findings}
        return {name: ", ".join(missing) for name, missing in lacking.items() if missing}

    def _is_news(self, finding: Finding) -> bool:
        known = self.findings.get(finding.rule)
        if known and at_least(known.severity, finding.severity):
            return False
        if _RULE[finding.rule].is_symptom and self._knows_a_cause():
            return False
        self.findings[finding.rule] = finding
        return True

    def _knows_a_cause(self) -> bool:
        return any(at_least(f.severity, "warning") and not _RULE[f.rule].is_symptom for f in self.findings.values())


def ranked(findings: Iterable[Finding]) -> list[Finding]:
    """The findings whose evidence speaks most for their cause come first, and notes last.

    Of equal weights the order of ``RULES`` decides, where causes stand before their effects.
    """

    def place(finding: Finding) -> tuple[bool, float, int]:
        return finding.severity == "info", -finding.weight, _PLACE.get(finding.rule, -1)

    return sorted(findings, key=place)


_RULE = {rule.name: rule for rule in RULES}
_PLACE = {rule.name: place for place, rule in enumerate(RULES)}


def as_line(finding: Finding) -> str:
    """One line for a terminal or a report."""
    return f"{finding.seen}. Likely cause: {finding.cause}. {finding.cure}. More: {finding.command}"
