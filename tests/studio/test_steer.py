"""Runs started, stopped and resumed from the studio."""

from __future__ import annotations

import json
import os
import sys
import time

import pytest

from concordant.config.names import METHODS
from concordant.studio.form import form_of
from concordant.studio.launch import Launcher
from tests.studio.visitor import TOKEN, csrf, studio, visitor, write_run

NEW = {"verb": "sft", "name": "first", "values": {"model.name": "builtin:tiny", "data.path": "builtin:toytalk"}}


def test_only_the_owner_starts_stops_and_resumes(tmp_path):
    write_run(tmp_path / "a")
    app = studio(tmp_path)
    reader = visitor(app)
    head = csrf(reader)
    assert reader.post("/api/runs/start", json=NEW, headers=head).status_code == 401
    assert reader.post("/api/runs/stop", json={"run": "a"}, headers=head).status_code == 401
    assert reader.post("/api/runs/resume", json={"run": "a"}, headers=head).status_code == 401
    assert not app.state.launcher._started
    assert "builtin:tiny" in reader.post("/api/command", json=NEW, headers=head).json()["command"]


@pytest.mark.parametrize("verb", METHODS)
def test_the_form_asks_for_every_key_with_its_help(verb):
    questions = {q["key"]: q for q in form_of(verb)["questions"]}
    assert all(q["help"] for q in questions.values()) and "output" not in questions
    rate = questions["train.learning_rate"]
    assert (rate["kind"], rate["range"]) == ("number", "[0, ∞)")
    assert questions["data.path"]["needed"] and questions["data.format"]["kind"] == "choice"


@pytest.mark.parametrize(
    "name", ["../x", "/tmp/x", "a/../../x", ".x", "", "a//b", "x" * 300, "a/b/c/d", "out/x", "a\n", "taken"]
)
def test_a_run_is_written_below_the_folder_of_runs_alone(tmp_path, name):
    runs = tmp_path / "runs"
    write_run(runs / "taken")
    (runs / "out").symlink_to(tmp_path)
    owner = visitor(studio(runs), token=TOKEN)
    answer = owner.post("/api/runs/start", json=NEW | {"name": name})
    assert answer.status_code == 422 and answer.json()["detail"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"values": {"model.nam": "x"}}, "model.name"),
        ({"values": {"output": "/tmp/x"}}, "set by the studio"),
        ({"values": NEW["values"] | {"train.max_steps": "-1"}}, "train.max_steps: expected a number in [0, ∞)"),
        ({"values": {}}, "data.path is needed"),
        ({"verb": "push"}, 'unknown verb "push"'),
    ],
)
def test_what_is_wrong_is_said_before_anything_starts(tmp_path, change, said):
    owner = visitor(studio(tmp_path), token=TOKEN)
    assert said in owner.post("/api/command", json=NEW | change).json()["problem"]
    answer = owner.post("/api/runs/start", json=NEW | change)
    assert answer.status_code == 422 and said in answer.json()["detail"] and not list(tmp_path.iterdir())


def test_a_run_is_started_once_stopped_and_resumed(tmp_path):
    data = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"where is {i}", "chosen": f"{i} is here", "rejected": "no"} for i in range(200)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    app = studio(tmp_path / "runs")
    owner = visitor(app, token=TOKEN)
    values = NEW["values"] | {"train.max_steps": "2000", "train.batch_size": "4", "train.tensorboard": "false"}
    values |= {"data.path": str(data), "train.evaluate_every": "-1"}
    new = NEW | {"values": values}
    assert owner.post("/api/runs/start", json=new).status_code == 200
    assert owner.post("/api/runs/start", json=new).status_code == 422  # a double click
    run = wait_for(owner, lambda run: run["life"] == "running" and run["state"] == "training" and run["step"] > 0)
    assert run["total"] == 2000
    assert owner.post("/api/runs/stop", json={"run": "first"}).status_code == 200
    run = wait_for(owner, lambda run: run["life"] == "stopped")
    assert run["can_resume"] and 0 < run["step"] < 2000
    wait_for(owner, lambda _: app.state.launcher._started["first"].poll() is not None)
    assert owner.post("/api/runs/resume", json={"run": "first"}).status_code == 200
    again = wait_for(owner, lambda now: now["life"] == "running" and now["step"] > run["step"])
    assert again["rows"] >= run["rows"]
    owner.post("/api/runs/stop", json={"run": "first"})
    wait_for(owner, lambda run: run["life"] == "stopped")
    app.state.launcher._started["first"].wait(60)


def wait_for(client, fits, seconds=120):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for run in client.get("/api/runs").json():
            if run["run"] == "first" and fits(run):
                return run
        time.sleep(0.2)
    pytest.fail(f"{client.get('/api/runs').json()} {client.get('/api/printed', params={'run': 'first'}).json()}")


@pytest.mark.parametrize("name", ["\0", "a\0b", "é" * 150, "a" * 200])
def test_a_name_that_no_file_can_have_is_no_error_of_the_server(tmp_path, name):
    app = studio(tmp_path)
    owner, paths = visitor(app, token=TOKEN), app.openapi()["paths"]
    asking = {
        path: [p["name"] for p in routes["get"].get("parameters", ()) if p["in"] == "query"]
        for path, routes in paths.items()
        if "get" in routes
    }
    assert asking["/api/printed"] == ["run"]
    for path, parameters in asking.items():
        if "run" in parameters:
            assert owner.get(path, params={"run": name}).status_code < 500, path


def test_what_runs_print_is_bounded_while_they_print(tmp_path, monkeypatch):
    """A run that prints 9 MiB and goes on printing keeps its end alone, without a hole; of many files the oldest go."""
    logs = tmp_path / ".studio"
    logs.mkdir()
    for i in range(205):
        (logs / f"old{i}.log").write_text("x")
        os.utime(logs / f"old{i}.log", (i, i))
    launcher = Launcher(tmp_path)
    assert len(list(logs.iterdir())) == 200 and not (logs / "old4.log").exists() and (logs / "old5.log").exists()
    prints = "import sys,time; w=sys.stdout.buffer; w.write(b'y'*9*2**20); w.flush()"
    prints += f"\nimport os\nwhile not os.path.exists({str(tmp_path / 'go')!r}): time.sleep(0.01)\nw.write(b'the end')"
    monkeypatch.setattr("concordant.studio.launch.process_command", lambda words: [sys.executable, "-c", *words])
    launcher.start("loud", [prints])
    log = logs / "loud.log"
    while log.stat().st_size < 9 * 2**20:
        time.sleep(0.01)
    assert launcher.printed("loud")[0] == "y" * 4_000
    assert log.stat().st_size == 2**20
    (tmp_path / "go").touch()
    assert launcher._started["loud"].wait(30) == 0
    assert log.read_bytes() == b"y" * 2**20 + b"the end"
    assert launcher.printed("loud")[0].endswith("the end")
