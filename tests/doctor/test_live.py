"""The doctor in the loop: what it writes, when it stops a run, what it remembers of one that is resumed."""

import json

import pytest

from concordant.config.doctor import DoctorConfig
from concordant.config.train import TrainConfig
from concordant.core.errors import RunStopped, UserError
from concordant.doctor.callback import Doctor
from concordant.doctor.finding import Finding
from concordant.doctor.replay import diagnose
from concordant.runs.folder import RunFolder
from concordant.training.loop import run_loop
from tests.doctor.histories import NAN, rows


class Scripted:
    """An algorithm whose metrics are given: row ``step`` is what step ``step`` measures."""

    metric, greater_is_better = "eval/loss", False

    def __init__(self, script):
        self.script, self.total_steps = script, len(script)

    def step(self, step, learning_rate):
        return {name: value for name, value in self.script[step].items() if name not in ("step", "learning_rate")}

    def evaluate(self, step):
        return {}

    def train_samples(self):
        return []

    def samples(self, step):
        return []

    @property
    def roles(self):
        return {"policy": self}

    def keep(self):
        pass

    forget = restore = keep

    def checkpoint_bytes(self, with_kept):
        return 4

    def export_bytes(self):
        return 4

    @property
    def exports(self):
        return {"model": self._export}

    def _export(self, folder, results):
        (folder / "model.json").write_text("{}")

    def save(self, folder):
        pass

    load = save

    def numbers(self):
        return {}

    def load_numbers(self, numbers):
        pass


FROZEN = rows("sft", 12, doctor__update__still=[0.0] * 4 + [1.0] * 8)
LOOK = TrainConfig(tensorboard=False)


def train(folder, script, stop_on="", resume=False, config=LOOK):
    with RunFolder(folder, resume=resume) as run:
        run.set_config({"verb": "sft"})
        return run_loop(Scripted(script), config, run, 0, [Doctor(DoctorConfig(stop_on=stop_on), config.log_every)])


def events(folder):
    path = folder / "events.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_finding_is_said_once_and_written_down(tmp_path, capsys):
    assert train(tmp_path / "run", FROZEN).steps == 12
    (event,) = events(tmp_path / "run")
    assert (event["kind"], event["rule"], event["severity"], event["step"]) == ("finding", "part_frozen", "error", 8)
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("no weight of the model moves") == 1
    assert (
        "Likely cause: the optimizer holds other weights" in said and "concordant doctor --explain part_frozen" in said
    )


def test_a_healthy_run_writes_no_event(tmp_path):
    train(tmp_path / "run", rows("sft", 30))
    assert events(tmp_path / "run") == [] and diagnose(tmp_path / "run") == []


def test_replay_comes_to_what_was_said_live(tmp_path):
    broken = rows("sft", 30, loss=lambda i, n: NAN if i == 20 else 4 - i / n, doctor__data__ends=0.0)
    train(tmp_path / "run", broken)
    live = [Finding.from_event(event) for event in events(tmp_path / "run")]
    assert [f.rule for f in live] == ["end_token_missing", "not_finite"]
    assert sorted(diagnose(tmp_path / "run"), key=lambda f: f.step) == live


@pytest.mark.parametrize(("evaluate_every", "rows_seen"), [(0, 0), (2, 1)])
def test_rows_that_are_not_logged_are_not_looked_at_and_those_that_are_logged_are(tmp_path, evaluate_every, rows_seen):
    """Else a resumed run, which knows the log alone, would come to other findings. An evaluation is always logged."""
    logs = TrainConfig(tensorboard=False, log_every=5, evaluate_every=evaluate_every)
    train(tmp_path / "run", FROZEN, config=logs)
    live = [(e["rule"], e["step"]) for e in events(tmp_path / "run")]
    assert [(f.rule, f.step) for f in diagnose(tmp_path / "run")] == live and len(live) == rows_seen


@pytest.mark.parametrize(("stop_on", "stops"), [("", False), ("error", True), ("warning", True)])
def test_stop_on_saves_the_step_and_stops(tmp_path, stop_on, stops):
    folder = tmp_path / "run"
    if not stops:
        assert train(folder, FROZEN, stop_on).steps == 12
        return
    with pytest.raises(RunStopped, match=r"stopped by doctor.stop_on .*part_frozen.*--resume auto"):
        train(folder, FROZEN, stop_on)
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-000008"]
    assert train(folder, FROZEN, stop_on, resume=True).steps == 12  # whoever resumes has read it: it is not said again
    assert [e["rule"] for e in events(folder)] == ["part_frozen"]


def test_a_warning_does_not_stop_a_run_that_stops_on_errors(tmp_path):
    repeated = rows("sft", 24, doctor__data__first_id=lambda i, n: i % 4)
    assert train(tmp_path / "run", repeated, "error").steps == 24
    assert [e["severity"] for e in events(tmp_path / "run")] == ["warning"]


def test_a_resumed_run_finds_what_the_uninterrupted_one_finds(tmp_path):
    """The eight rows of the evidence lie on both sides of the kill."""
    halves = rows("sft", 30, loss=4.0, doctor__update__ratio=1e-6)
    saves = TrainConfig(tensorboard=False, save_every=10)
    train(tmp_path / "whole", halves, config=saves)
    killed = Scripted(halves)
    killed.step = lambda step, rate: (
        (_ for _ in ()).throw(KeyboardInterrupt) if step == 17 else Scripted.step(killed, step, rate)
    )
    with RunFolder(tmp_path / "cut") as run:
        run.set_config({"verb": "sft"})
        with pytest.raises(KeyboardInterrupt):
            run_loop(killed, saves, run, 0, [Doctor(DoctorConfig())])
    train(tmp_path / "cut", halves, resume=True, config=saves)
    assert events(tmp_path / "cut") == events(tmp_path / "whole") != []


def test_a_folder_without_metrics_is_no_run(tmp_path):
    with pytest.raises(UserError, match="not a run folder: it has no metrics.jsonl"):
        diagnose(tmp_path)


def test_a_line_cut_by_a_kill_and_a_broken_one_are_left_out(tmp_path):
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text('{"step": 1, "loss": 1.0}\n{"step": 2, "lo')
    assert diagnose(tmp_path) == []
    metrics.write_text('{"step": 1, "loss": 1.0}\n{"stp": 2}\n{"step": 3}\n')
    assert diagnose(tmp_path) == []
