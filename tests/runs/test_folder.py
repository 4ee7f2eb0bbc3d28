from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from concordant.config.yaml_io import load_yaml
from concordant.core.errors import RunFailed, UserError
from concordant.runs.folder import RunFolder
from concordant.runs.status import read as read_status

HOLD = """
import sys, time
from concordant.runs.folder import RunFolder
from concordant.runs.status import read as read_status
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


def test_a_row_behind_a_torn_line_begins_a_line_of_its_own(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2, "lo')
    with RunFolder(tmp_path, resume=True) as folder:
        folder.log_metrics({"step": 3})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n{"step": 2, "lo\n{"step": 3}\n'


@pytest.mark.parametrize("text", ["", "[]", "7", '{"pid": 1}', "null", "[" * 100_000, '{"host": []}', "\ud800"])
def test_an_odd_lock_file_is_another_process(tmp_path, holder, text):
    (tmp_path / "run" / ".lock").write_text(text, errors="surrogatepass")
    with pytest.raises(UserError, match="run is in use by another process"):
        RunFolder(tmp_path / "run")


def full(*_, **__):
    raise OSError(28, "No space left on device")


def test_a_disk_that_is_full_at_the_lock_leaves_the_folder_free(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(UserError, match="cannot write to .*: No space left on device"):
            RunFolder(tmp_path / "run")
    RunFolder(tmp_path / "run").close()


def test_how_a_run_ended_is_said_on_a_full_disk(tmp_path, monkeypatch):
    """A new file finds no room; the old one's room is there."""
    with pytest.raises(RunFailed), RunFolder(tmp_path / "run") as folder:
        folder.status.update("training", 3, 6)
        monkeypatch.setattr("concordant.runs.status.write_text", full)
        raise RunFailed("no room")
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert (status["state"], status["message"]) == ("failed", "no room")


def test_a_config_that_finds_no_room_is_said(tmp_path, monkeypatch):
    with RunFolder(tmp_path / "run") as folder:
        monkeypatch.setattr("concordant.runs.folder.write_text", full)
        with pytest.raises(RunFailed, match="cannot write .*config.yaml: No space left on device"):
            folder.set_config({"verb": "sft"})


@pytest.mark.parametrize("odd", [{"pid": "x"}, {"pid": 10**30}, {"host": 7}, {"state": []}, {"step": None}])
def test_an_odd_status_is_read_without_fault(tmp_path, odd):
    with RunFolder(tmp_path / "run") as folder:
        folder.status.update("training", 3, 6)
        status = json.loads((tmp_path / "run" / "status.json").read_text())
        (tmp_path / "run" / "status.json").write_text(json.dumps(status | odd))
        found = read_status(tmp_path / "run")
        assert found is None or found.life in ("running", "died")


def test_logs_are_on_the_disk_before_a_checkpoint_counts_on_them(tmp_path, monkeypatch):
    with RunFolder(tmp_path) as folder:
        folder.log_metrics({"step": 1})
        folder.log_samples([{"step": 1}])
        synced = []
        monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.readlink(f"/proc/self/fd/{descriptor}")))
        lengths = folder.offsets()
    assert {name for name, length in lengths.items() if length} == {"metrics.jsonl", "samples.jsonl"}
    assert {str(tmp_path / "metrics.jsonl"), str(tmp_path / "samples.jsonl")} <= set(synced)


def test_a_log_that_lost_its_end_is_not_filled_up(tmp_path):
    with RunFolder(tmp_path) as folder:
        folder.log_metrics({"step": 1})
        folder.log_metrics({"step": 2})
        offsets = folder.offsets()
        (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
        folder.rewind(offsets)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n'
