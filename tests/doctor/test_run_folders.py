"""A run's folder, and a pipeline's folder with every stage in it."""

from __future__ import annotations

import json

import pytest

from concordant.cli import main
from concordant.config.yaml_io import dump_yaml
from concordant.core.errors import UserError
from concordant.doctor.finding import Finding
from concordant.runs.status import StatusWriter
from concordant.stages.doctor import examine

GRAVE = Finding("truncation", "error", "40 % of 80 rows are too long", "cause", "cure")


@pytest.fixture
def pipeline(tmp_path):
    """prepare made data; sft is a run with a finding; best trains nothing; ppo has not begun."""
    names = {"prepare": "prepare", "sft": "sft", "best": "best-of-n", "ppo": "ppo"}
    (tmp_path / "pipeline.yaml").write_text(dump_yaml({"stages": {n: {"verb": v} for n, v in names.items()}}))
    sides = [(f"yes {i}", f"no {i}") if i % 2 else (f"{i} no", f"{i} yes") for i in range(80)]
    pairs = [{"prompt": f"q{i}", "chosen": chosen, "rejected": rejected} for i, (chosen, rejected) in enumerate(sides)]
    rows = "".join(json.dumps(pair) + "\n" for pair in pairs)
    (tmp_path / "pairs.jsonl").write_text(rows)
    assert main(["prepare", "--data", str(tmp_path / "pairs.jsonl"), "--output", str(tmp_path / "prepare")]) == 0
    for name in ("prepare", "sft", "best"):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "stage.json").write_text("{}")
    (tmp_path / "sft" / "events.jsonl").write_text(json.dumps(GRAVE.as_event()) + "\n")
    with StatusWriter(tmp_path / "sft", "sft") as status:
        status.update("training", 40, 40)
    return tmp_path


def test_every_stage_of_a_pipeline_is_looked_at(pipeline):
    diagnosis = examine(str(pipeline))
    assert list(diagnosis.stages) == ["prepare", "sft", "best", "ppo"]
    assert diagnosis.all_findings == [GRAVE] == diagnosis.stages["sft"].findings
    assert diagnosis.stages["sft"].facts["state"] == "finished, 40 of 40 steps"
    assert "80" in diagnosis.stages["prepare"].facts["data"]
    assert diagnosis.stages["ppo"].facts == {"stage": "not started"}


def test_the_command_names_the_stages_and_exits_1(pipeline, capsys):
    assert main(["doctor", str(pipeline)]) == 1
    said = capsys.readouterr()
    assert "\nsft\n" in said.out and "error truncation" in said.out and "all stages: 1 error" in said.out
    assert said.err == f"failed: doctor {pipeline}: 1 error\n"
    assert main(["doctor", str(pipeline), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert [event["rule"] for event in told["stages"]["sft"]["findings"]] == ["truncation"]


def test_a_file_that_names_no_stage_is_refused(tmp_path):
    (tmp_path / "pipeline.yaml").write_text("stages: {}\n")
    with pytest.raises(UserError, match='"stages" must map'):
        examine(str(tmp_path))


def test_a_name_beside_a_folder_suggests_it(pipeline):
    with pytest.raises(UserError, match=f'Did you mean "{pipeline}/sft"'):
        examine(str(pipeline / "stf"))


@pytest.mark.parametrize("mark", ["status.json", "report.json"])
def test_a_result_of_a_verb_that_trains_nothing_is_not_taken_for_data(tmp_path, mark):
    """best-of-n and evaluate leave JSON lines beside their state, which look like rows."""
    (tmp_path / mark).write_text("{}")
    (tmp_path / "samples.jsonl").write_text('{"prompt": "where", "response": "here"}\n')
    found = examine(str(tmp_path))
    assert found.facts["looked at"] == "only its state: it trains nothing" and not found.findings
