from __future__ import annotations

import json

import pytest

from concordant.core.errors import UserError
from concordant.doctor.run_folders import diagnose_run
from concordant.doctor.replay import diagnose
from concordant.runs.read import complaints, findings_of, samples_of

FINDING = {"kind": "finding", "rule": "kl_negative", "severity": "warning", "seen": "s", "why": "w", "cause": "c",
           "cure": "d", "step": None, "numbers": {}, "page": "p"}  # fmt: skip


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_samples_that_a_step_learnt_from_stand_apart_from_held_out_ones(tmp_path):
    rows = [{"step": 1, "split": "train", "response": "a"}, {"step": 2, "split": "eval", "response": "b"}]
    write(tmp_path / "samples.jsonl", *rows)
    assert samples_of(tmp_path) == rows[1:] and samples_of(tmp_path, "train") == rows[:1]


def test_an_event_that_lacks_a_part_is_no_finding(tmp_path):
    write(tmp_path / "events.jsonl", {"kind": "finding", "rule": "x"}, FINDING, {"kind": "resume"})
    assert findings_of(tmp_path) == [FINDING]


def test_the_doctor_reads_a_damaged_folder_and_says_what_was_left_out(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 1}\nxx\n{"step": 2, "lo{"step": 2, "loss": 1}\n{"st')
    (tmp_path / "events.jsonl").write_text("\x00\n" + json.dumps(FINDING) + "\n" + '{"kind": "fin')
    assert len(complaints(tmp_path)) == 2
    diagnosis = diagnose_run(tmp_path)
    assert [finding.rule for finding in diagnosis.findings] == ["kl_negative"]
    assert "metrics.jsonl: 2 lines are damaged and left out (lines 2, 3)" in diagnosis.facts["damaged"]


def test_a_run_of_an_older_version_is_refused_by_name_and_never_healthy(tmp_path):
    write(tmp_path / "metrics.jsonl", {"step": 1, "loss": 1.0, "update/ratio": 0.5})
    with pytest.raises(UserError, match='older version: it has "update/ratio", which is "doctor/update/ratio" today'):
        diagnose(tmp_path)
