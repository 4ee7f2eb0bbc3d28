"""What the doctor wrote of a run stands in the report; the reader survives a file that a kill cut short."""

import json
from pathlib import Path

from concordant.evaluation.compare import evaluate_policies
from concordant.report.blocks import Bullets
from concordant.report.run_findings import findings_blocks, read_findings
from concordant.report.write import write_report


def event(rule, severity, step):
    return {"kind": "finding", "rule": rule, "severity": severity, "step": step, "seen": f"saw {rule}", "why": "why",
            "cause": "a cause", "cure": "A cure", "numbers": {}, "page": f"doctor/{rule}/"}  # fmt: skip


def run_with(folder: Path, *events: object, tail: str = "") -> Path:
    folder.mkdir()
    (folder / "events.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events) + tail)
    return folder


def test_errors_come_first_and_other_events_and_cut_lines_are_left_out(tmp_path):
    folder = run_with(
        tmp_path / "ppo", event("a", "info", 1), {"kind": "note"}, event("b", "warning", 2), event("c", "error", 9),
        tail='{"kind": "finding", "ru',
    )  # fmt: skip
    assert [e["rule"] for e in read_findings(folder)] == ["c", "b", "a"]
    assert read_findings(tmp_path) == []


def test_every_run_is_named_the_silent_ones_too(tmp_path):
    seen = [event("c", "error", 9), event("d", "info", None)]
    (bullets,) = [b for b in findings_blocks({"ppo": seen, "sft": []}) if isinstance(b, Bullets)]
    assert bullets.items == (
        "ppo, step 9, error: saw c. Likely cause: a cause. A cure (concordant doctor --explain c).",
        "ppo, before its first step, info: saw d. Likely cause: a cause. A cure (concordant doctor --explain d).",
        "sft: nothing found",
    )
    assert findings_blocks({}) == []


def test_the_report_has_them_as_text(tmp_path, answers):
    hostile = {**event("c", "error", 9), "seen": "<img src=x>"}
    write_report(
        evaluate_policies([answers("sft", gold=[0.5, 0.6])], "sft", 10, 0), tmp_path, findings={"ppo": [hostile]}
    )
    for page in ("report.html", "report.md"):
        text = (tmp_path / page).read_text()
        assert "Findings of the doctor in the runs" in text and "<img src=x>" not in text
