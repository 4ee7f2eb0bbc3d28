"""docs/plan.md shows the tables that the code gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import concordant
from bench.plan import Row, compared, table
from bench.plan_tables import tables

ROOT = Path(concordant.__file__).parents[1]
PAGE = (ROOT / "docs" / "plan.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("number", range(4))
def test_the_page_has_the_tables_on_paper(number):
    assert tables()[number] in PAGE, "run: python -m bench.plan_tables, and put its tables into docs/plan.md"


def test_the_page_has_the_measured_rows_beside_the_present_plan():
    """The measurements are saved, and the plan is made anew: a change of the plan must be seen on the page."""
    saved = json.loads((ROOT / "bench" / "results" / "amd-epyc" / "plan.json").read_text(encoding="utf-8"))
    records = [compared(Row(**r["row"]), r["measured"]) for r in saved["records"]]
    assert len(records) >= 12 and table(records) in PAGE
    assert all(0.85 <= r["memory_ratio"] <= 1.15 and 0.7 <= r["time_ratio"] <= 1.3 for r in records)
