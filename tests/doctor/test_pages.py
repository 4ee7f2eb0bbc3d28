"""Every finding of a run has a page: what was seen, why it matters, the causes, the cure, what is healthy."""

from pathlib import Path

import pytest

from concordant.doctor.rules import RULES

DOCS = Path(__file__).resolve().parents[2] / "docs" / "doctor"
SECTIONS = ("## Seen", "## Why it matters", "## Causes", "## Cure", "## Healthy")


@pytest.mark.parametrize("rule", [rule.name for rule in RULES])
def test_a_rule_has_its_page(rule):
    text = (DOCS / f"{rule}.md").read_text(encoding="utf-8")
    assert text.startswith(f"# {rule}\n")
    assert all(f"\n{section}\n" in text for section in SECTIONS)
