from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from concordant.config.yaml_io import load_yaml
from concordant.core.errors import UserError
from concordant.runs.folder import RunFolder

HOLD = """
import sys, time
from concordant.runs.folder import RunFolder
folder = RunFolder(sys.argv[1])
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_process_is_told_who_holds_the_folder(tmp_path, holder):
    with pytest.raises(UserError, match=f"run is in use by process {holder.pid} on "):
        RunFolder(tmp_path / "run")


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path, holder):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "run" / ".lock").exists()
    with RunFolder(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / ".lock").read_text())["pid"] == os.getpid()


def test_two_runs_of_one_process_cannot_share_a_folder_until_the_first_closes(tmp_path):
    with RunFolder(tmp_path), pytest.raises(UserError, match=f"process {os.getpid()}"):
        RunFolder(tmp_path)
    RunFolder(tmp_path).close()
    assert not (tmp_path / ".lock").exists()


def test_a_line_is_in_the_file_when_the_call_returns(tmp_path):
    with RunFolder(tmp_path) as folder:
        folder.log_metrics({"step": 1, "loss": 0.5})
        assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "loss": 0.5}\n'


def test_nan_becomes_null_so_that_every_json_reader_can_go_on(tmp_path):
    with RunFolder(tmp_path) as folder:
        folder.log_metrics({"loss": float("nan"), "list": [float("inf"), 1]})
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"loss": None, "list": [None, 1]}


def test_config_is_plain_yaml(tmp_path):
    config = {"verb": "sft", "seed": 3, "train": {"learning_rate": 1e-5}}
    with RunFolder(tmp_path) as folder:
        folder.set_config(config)
    assert load_yaml(tmp_path / "config.yaml") == config


def test_a_folder_with_a_run_is_refused_and_untouched(tmp_path):
    with RunFolder(tmp_path) as folder:
        folder.log_metrics({"step": 1})
    with pytest.raises(UserError, match="already holds a run; continue it with --resume auto"):
        RunFolder(tmp_path)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n'
    RunFolder(tmp_path, resume=True).close()


def test_a_run_that_failed_before_its_first_step_is_no_obstacle(tmp_path):
    with RunFolder(tmp_path) as folder:
        folder.set_config({"verb": "sft"})
    RunFolder(tmp_path).close()


def test_rewind_forgets_later_lines_and_a_torn_one(tmp_path):
    with RunFolder(tmp_path) as folder:
        folder.log_metrics({"step": 1})
        offsets = folder.offsets()
        folder.log_metrics({"step": 2})
        folder.log_samples([{"step": 2}])
        (tmp_path / "metrics.jsonl").open("a").write('{"step": 3, "lo')
        folder.rewind(offsets)
        folder.log_metrics({"step": 2})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n{"step": 2}\n'
    assert (tmp_path / "samples.jsonl").read_text() == ""


def test_a_row_does_not_glue_itself_to_a_line_that_a_kill_has_cut(tmp_path):
    (tmp_path / "events.jsonl").write_text('{"kind": "resu')
    with RunFolder(tmp_path, resume=True) as folder:
        folder.log_event({"kind": "finding"})
    assert (tmp_path / "events.jsonl").read_text() == '{"kind": "resu\n{"kind": "finding"}\n'


def test_output_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "x").write_text("")
    with pytest.raises(UserError, match="x is a file; expected a folder"):
        RunFolder(tmp_path / "x")
