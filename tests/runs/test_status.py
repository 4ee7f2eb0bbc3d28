"""status.json says what a run is doing, and a run that was killed does not look alive."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from concordant.core.alive import sign_of_life
from concordant.core.errors import RunFailed, RunStopped, UserError
from concordant.runs import status
from concordant.runs.folder import RunFolder
from concordant.runs.lock import FolderLock
from concordant.runs.status import StatusWriter, read

RUN = """
import sys, time
from concordant.runs.folder import RunFolder
with RunFolder(sys.argv[1]) as folder:
    folder.set_config({"verb": "ppo"})
    folder.status.update("training", 3, 10)
    print("going", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def process(tmp_path):
    started = subprocess.Popen([sys.executable, "-c", RUN, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert started.stdout is not None and started.stdout.readline() == "going\n"
    yield started
    started.kill()
    started.wait()


def test_a_run_at_work_is_running_and_a_killed_one_has_died(tmp_path, process):
    found = read(tmp_path)
    assert found is not None and found.life == "running"
    assert (found.status.verb, found.status.state, found.status.step, found.status.total) == ("ppo", "training", 3, 10)
    assert found.status.pid == process.pid
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    found = read(tmp_path)
    assert found is not None and (found.life, found.status.state) == ("died", "training")


def test_another_process_with_the_number_of_a_dead_one_is_not_taken_for_it(tmp_path, process):
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    written = json.loads((tmp_path / "status.json").read_text())
    (tmp_path / "status.json").write_text(json.dumps(written | {"pid": os.getpid()}))  # alive, and holds no lock
    found = read(tmp_path)
    assert found is not None and found.life == "died"


def test_the_status_of_a_dead_process_is_not_its_successors(tmp_path, process):
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    lock = FolderLock(tmp_path)  # the next process has begun, and has said nothing yet
    found = read(tmp_path)
    lock.release()
    assert found is not None and found.life == "died"


def test_looking_takes_no_lock_away(tmp_path):
    lock = FolderLock(tmp_path)
    with StatusWriter(tmp_path, "sft"):
        assert all((read(tmp_path) or 0).life == "running" for _ in range(20))
        with pytest.raises(UserError, match="is in use"):
            FolderLock(tmp_path)
    lock.release()
    FolderLock(tmp_path).release()


@pytest.mark.parametrize(
    ("error", "state", "code"),
    [
        (None, "finished", 0),
        (RunStopped("on request"), "stopped", 3),
        (RunFailed("nothing is finite"), "failed", 1),
        (UserError("no such file"), "failed", 2),
        (ZeroDivisionError("a bug"), "failed", 1),
    ],
)
def test_the_end_of_a_run_is_written_with_its_reason_and_exit_code(tmp_path, error, state, code):
    def work():
        with RunFolder(tmp_path) as folder:
            folder.set_config({"verb": "sft"})
            folder.status.update("training", 1, 4)
            if error:
                raise error

    if error:
        with pytest.raises(type(error)):
            work()
    else:
        work()
    found = read(tmp_path)
    assert found is not None and found.life == found.status.state == state
    assert (found.status.exit_code, found.status.message) == (code, str(error) if error else "")


def test_ctrl_c_outside_the_loop_is_a_stop(tmp_path):
    with pytest.raises(RunStopped), RunFolder(tmp_path):
        raise KeyboardInterrupt
    found = read(tmp_path)
    assert found is not None and found.life == "stopped" and "the same command starts again" in found.status.message


def test_a_resume_that_is_refused_leaves_the_status_of_the_run(tmp_path):
    with RunFolder(tmp_path) as folder:
        folder.status.update("training", 4, 4)
    before = (tmp_path / "status.json").read_bytes()
    with pytest.raises(UserError), RunFolder(tmp_path, resume=True) as folder:
        folder.set_config({"verb": "sft"})
        assert read(tmp_path).status.state == "preparing"
        raise UserError("of a run with other settings")
    assert (tmp_path / "status.json").read_bytes() == before


def test_it_is_written_at_every_change_and_else_once_a_second(tmp_path, monkeypatch):
    now, writes = [100.0], []
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(status, "write_text", lambda path, text, durable=True: writes.append(json.loads(text)))
    writer = StatusWriter(tmp_path)
    writer.update("training", 0, 1000)
    for step in range(1, 1001):  # ten seconds
        now[0] += 0.01
        writer.update("training", step)
    assert 10 <= len(writes) <= 12
    count = len(writes)
    with writer.during("saving"):
        pass
    assert [w["state"] for w in writes[count:]] == ["saving", "training"]
    writer.end()
    assert (writes[-1]["state"], writes[-1]["step"]) == ("finished", 1000)


def test_a_run_of_another_host_is_not_judged(tmp_path):
    with StatusWriter(tmp_path, "sft"):
        written = json.loads((tmp_path / "status.json").read_text())
        (tmp_path / "status.json").write_text(json.dumps(written | {"host": "elsewhere"}))
        found = read(tmp_path)
        assert found is not None and found.life == "unknown"


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"state": "dancing"}', '{"state": "training"'])
def test_a_damaged_status_is_none(tmp_path, text):
    assert read(tmp_path) is None
    (tmp_path / "status.json").write_text(text)
    assert read(tmp_path) is None


def test_a_disk_that_cannot_take_the_status_does_not_stop_the_run(tmp_path, monkeypatch):
    def full(*arguments, **named):
        raise OSError("no space left on device")

    monkeypatch.setattr(status, "write_text", full)
    with RunFolder(tmp_path) as folder:
        folder.status.update("training", 1, 2)
    assert read(tmp_path) is None


def test_a_long_step_moves_the_file(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(status.time, "monotonic", lambda: now[0])
    with RunFolder(tmp_path / "run") as folder:
        folder.status.update("training", 3, 10)

        def within():
            return json.loads((tmp_path / "run" / "status.json").read_text())["within"]

        sign_of_life("micro-batches", 1, 12)
        assert within() == "", "at most one write a second"
        now[0] += 1.5
        sign_of_life("micro-batches", 2, 12)
        assert within() == "2 of 12 micro-batches"
        now[0] += 1.5
        folder.status.update("training", 4)
        assert within() == ""
        now[0] += 1.5
        sign_of_life("micro-batches", 5, 12)
    assert within() == "", "a run that has ended is within nothing"
    sign_of_life("micro-batches", 6, 12)
    found = read(tmp_path / "run")
    assert found is not None and (found.status.step, found.status.within) == (4, "")
