"""faults.md row 26: a tracker that raises, hangs, leaves or is missing never stops a run; the local files have all."""

from __future__ import annotations

import importlib
import json
import sqlite3
import threading
from importlib.util import find_spec

import pytest

from concordant.config.train import TrainConfig
from concordant.core.errors import UserError
from concordant.runs.folder import RunFolder
from concordant.training import trackers
from concordant.training.loop import run_loop
from concordant.training.trackers import KINDS, InThread, MLflow, Trackio, WandB, check_installed
from tests.training.walk import Walk, rows


class Fake:
    """Remembers what it is told."""

    made: list[Fake] = []

    def __init__(self, run):
        self.run, self.logged, self.done = run, [], None
        Fake.made.append(self)

    def log(self, step, metrics):
        self.logged.append((step, metrics))

    def close(self, done=True):
        self.done = done


@pytest.fixture
def use(monkeypatch):
    """A function that puts another class in the place of W&B."""
    Fake.made = []
    monkeypatch.setattr(trackers, "PATIENCE", 0.3)
    return lambda kind: monkeypatch.setitem(KINDS, "wandb", kind)


def run(path, walk, said=None, resume=False, **changes):
    settings = TrainConfig(**{"learning_rate": 1.0, "tensorboard": False, "tracker": ["wandb"], **changes})
    with RunFolder(path, resume=resume) as folder:
        folder.set_config({"verb": "sft", "train": {"max_steps": 3}})
        if said is not None:
            trackers_of = pytest.MonkeyPatch()
            trackers_of.setattr("concordant.training.loop.current", lambda: Said(said))
        try:
            return run_loop(walk, settings, folder, 0)
        finally:
            if said is not None:
                trackers_of.undo()


class Said:
    """A display that keeps its messages."""

    def __init__(self, said):
        self.message = said.append

    def task(self, name, total, done):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def update(self, step, metrics):
        pass


def test_a_tracker_gets_the_rows_of_the_local_file_and_the_config(tmp_path, use):
    use(Fake)
    walk = Walk(total_steps=3)
    step = walk.step
    walk.step = lambda number, rate: {**step(number, rate), "odd": float("nan")}
    run(tmp_path, walk)
    (fake,) = Fake.made
    assert fake.run.config == {"verb": "sft", "train": {"max_steps": 3}} and fake.run.name == tmp_path.name
    expected = [(row.pop("step"), {k: v for k, v in row.items() if v is not None}) for row in rows(tmp_path)]
    assert fake.logged == expected and fake.done
    assert "odd" in rows(tmp_path)[0] and "odd" not in fake.logged[0][1]
    assert json.loads((tmp_path / "trackers.json").read_text()) == {"id": fake.run.id}


def test_a_resumed_run_goes_on_under_its_id_and_a_new_run_has_another(tmp_path, use):
    use(Fake)
    run(tmp_path / "a", Walk(total_steps=4), save_every=2)
    run(tmp_path / "a", Walk(total_steps=4), resume=True, save_every=2)
    run(tmp_path / "b", Walk(total_steps=4))
    first, again, other = (fake.run.id for fake in Fake.made)
    assert first == again != other


def test_all_trackers_of_a_run_share_its_id(tmp_path, use, monkeypatch):
    for name in KINDS:
        monkeypatch.setitem(KINDS, name, Fake)
    run(tmp_path, Walk(total_steps=1), tracker=list(KINDS))
    assert len({fake.run.id for fake in Fake.made}) == 1 and len(Fake.made) == len(KINDS)


def test_a_run_that_fails_is_not_told_as_finished(tmp_path, use):
    use(Fake)
    walk = Walk(total_steps=3)
    walk.step = lambda number, rate: 1 / 0
    with pytest.raises(ZeroDivisionError):
        run(tmp_path, walk)
    assert Fake.made[0].done is False


def broken(where, error):
    class Broken(Fake):
        def fail(self, *given):
            raise error

    setattr(Broken, where, Broken.fail)
    return Broken


@pytest.mark.parametrize("where", ["__init__", "log", "close"])
@pytest.mark.parametrize("error", [ConnectionError("no route"), SystemExit(0)], ids=["raises", "exits"])
def test_a_tracker_that_breaks_is_left_out_with_one_message(where, error, tmp_path, use):
    use(broken(where, error))
    said: list[str] = []
    result = run(tmp_path, Walk(total_steps=5), said)
    assert result.steps == 5 and len(rows(tmp_path)) == 5 and result.model.is_dir()
    told = [line for line in said if line.startswith("wandb stopped")]
    assert len(told) == 1 and type(error).__name__ in told[0] and "metrics.jsonl has it all" in told[0]


@pytest.mark.parametrize("where", ["__init__", "log", "close"])
def test_a_tracker_that_hangs_is_waited_for_once_and_not_long(where, tmp_path, use):
    free = threading.Event()

    class Hanging(Fake):
        def hang(self, *given):
            free.wait(20)

    setattr(Hanging, where, Hanging.hang)
    use(Hanging)
    said: list[str] = []
    try:
        result = run(tmp_path, Walk(total_steps=5), said)
        assert result.steps == 5 and len(rows(tmp_path)) == 5
        assert [line for line in said if "TimeoutError" in line and "did not end within" in line]
    finally:
        free.set()


def test_a_tracker_that_falls_too_far_behind_is_dropped(monkeypatch):
    monkeypatch.setattr(trackers, "WAITING_ROWS", 2)
    free = threading.Event()
    slow = InThread(lambda: free.wait(20) and Fake(None))
    try:
        for step in (1, 2):
            slow.log(step, {})
        with pytest.raises(TimeoutError, match="2 rows wait"):
            slow.log(3, {})
    finally:
        free.set()


def test_a_package_that_is_missing_is_named_with_the_line_that_installs_it(monkeypatch):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None if name == "trackio" else object())
    with pytest.raises(UserError, match=r"trackio: not installed; pip install trackio, or .*concordant\[trackers\]"):
        check_installed(["wandb", "trackio"])
    check_installed(["wandb"])


# -- the real ones, offline; they run where the packages are installed ------------------------------


def told(kind, run_id, name="run"):
    """Two rows, then a resume that logs the second again and a third."""
    about = trackers.TrackedRun(name=name, id=run_id, config={"verb": "sft", "train": {"max_steps": 3}})
    for steps, done in (((1, 2), False), ((2, 3), True)):
        tracker = kind(about)
        for step in steps:
            tracker.log(step, {"loss": 1 / step, "rewards/chosen": float(step)})
        tracker.close(done)


def test_mlflow_keeps_one_run_over_a_resume(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/m.db")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/m.db")
    told(MLflow, "abc123")
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("concordant")
    (found,) = client.search_runs([experiment.experiment_id])
    assert (found.info.run_name, found.info.status) == ("run", "FINISHED")
    assert found.data.params == {"verb": "sft", "train.max_steps": "3"}
    history = client.get_metric_history(found.info.run_id, "rewards/chosen")
    assert sorted({(row.step, row.value) for row in history}) == [(1, 1.0), (2, 2.0), (3, 3.0)]


def test_trackio_keeps_one_run_over_a_resume(tmp_path):
    if find_spec("trackio") is None:
        pytest.skip("trackio is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRACKIO_DIR", str(tmp_path))
        importlib.import_module("trackio")
        told(Trackio, "abc123")
    databases = list(tmp_path.glob("*.db"))
    if not databases:
        pytest.skip("trackio was imported before, and keeps the folder of that time")
    found = list(sqlite3.connect(databases[0]).execute("select run_name, step, metrics from metrics"))
    assert {(name, step, json.loads(row)["rewards/chosen"]) for name, step, row in found} == {
        ("run-abc123", step, float(step)) for step in (1, 2, 3)
    }


def test_wandb_writes_offline_under_the_runs_id(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    told(WandB, "abc123")
    files = sorted(tmp_path.glob("wandb/offline-run-*/run-abc123.wandb"))
    assert files and b"rewards/chosen" in files[-1].read_bytes() and b"max_steps" in files[0].read_bytes()
