"""What result.json says of a run."""

from __future__ import annotations

import json
import math

import pytest

from concordant.runs.folder import RunFolder
from concordant.runs.inputs import Inputs
from concordant.training.result import LoopResult, write_result


def written(tmp_path, **changes):
    known = {"steps": 9, "exported_step": 4, "best_step": 4, "best_value": 0.25, "stopped_early": True, "metrics": {}}
    with RunFolder(tmp_path / "run") as folder:
        folder.inputs = Inputs(settings={"data": "5 records, 2 held out"}, contents={"data": "abc"})
        result = LoopResult(model=tmp_path / "run" / "model", **{**known, **changes})
        assert write_result(folder, result, total=20, metric="eval/loss") == ""
    return json.loads((tmp_path / "run" / "result.json").read_text(), parse_constant=refused)


def refused(name):
    raise AssertionError(f"{name} is no JSON")


def test_every_number_stands_under_its_name(tmp_path):
    found = written(tmp_path)
    assert (found["exported_step"], found["steps"], found["total_steps"]) == (4, 9, 20)
    assert (found["best_step"], found["best_value"], found["metric"]) == (4, 0.25, "eval/loss")
    assert (found["data"], found["data_hash"]) == ("5 records, 2 held out", "abc")


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
def test_a_best_value_that_is_no_number_is_null(tmp_path, value):
    assert written(tmp_path, best_value=value)["best_value"] is None


def test_a_disk_that_takes_no_file_is_a_sentence(tmp_path):
    with RunFolder(tmp_path / "run") as folder:
        (tmp_path / "run" / "result.json").mkdir()
        result = LoopResult(
            steps=1, exported_step=1, best_step=None, best_value=None, stopped_early=False, metrics={}, model=tmp_path
        )
        assert write_result(folder, result, total=1, metric="eval/loss").startswith("result.json could not be written")
