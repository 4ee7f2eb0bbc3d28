"""The loop: which steps it takes, what it logs, which weights it exports, and how it stops."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from concordant.core.errors import RunFailed, UserError
from concordant.engines import state_files
from concordant.engines.state_files import read_state
from concordant.runs.folder import RunFolder
from concordant.runs.status import read as read_status
from concordant.training import checkpoint
from concordant.training.loop import MAX_SKIPPED_IN_A_ROW, TRAIN_SAMPLES_EVERY, run_loop
from tests.training.walk import Walk, config, exported, rows, run


def test_steps_are_counted_and_totals_run_on(tmp_path):
    result = run(tmp_path, Walk())
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert [row["tokens"] for row in rows(tmp_path)] == [10, 20, 30, 40, 50, 60]
    assert rows(tmp_path)[-1]["samples"] == 12
    assert {"learning_rate", "loss", "grad_norm", "tokens_per_second", "seconds/step", "skipped"} <= rows(tmp_path)[
        0
    ].keys()
    assert (result.steps, result.exported_step, result.stopped_early) == (6, 6, False)


def test_log_every_thins_the_lines_and_keeps_evaluations(tmp_path):
    run(tmp_path, Walk(evaluations=[1.0] * 9), log_every=4, evaluate_every=3)
    assert [row["step"] for row in rows(tmp_path)] == [3, 4, 6]
    assert [row["step"] for row in rows(tmp_path, "samples.jsonl")] == [3, 6]


def test_the_schedule_reaches_the_algorithm(tmp_path):
    walk = Walk(total_steps=4)
    run(tmp_path, walk, schedule="linear", warmup_fraction=0.0)
    assert walk.rates == [1.0, 0.75, 0.5, 0.25]


@pytest.mark.parametrize(
    ("evaluations", "greater_is_better", "best"),
    [([3.0, 1.0, 2.0], False, 4), ([3.0, 1.0, 2.0], True, 2), ([1.0, 1.0, 1.0], False, 2), ([5.0, 4.0, 3.0], False, 6)],
)
def test_the_best_evaluation_is_exported(tmp_path, evaluations, greater_is_better, best):
    result = run(tmp_path, Walk(evaluations=evaluations, greater_is_better=greater_is_better), evaluate_every=2)
    shorter = Walk(total_steps=6)
    with RunFolder(tmp_path / "plain") as folder:
        run_loop(shorter, config(keep_best=False), folder, 0, [Until(best)])
    assert (result.best_step, result.exported_step) == (best, best)
    written = json.loads((tmp_path / "result.json").read_text())
    assert (written["exported_step"], written["best_step"], written["steps"]) == (best, best, 6)
    best_value = (max if greater_is_better else min)(evaluations)
    assert (written["metric"], written["best_value"], written["total_steps"]) == ("eval/loss", best_value, 6)
    assert exported(tmp_path) == Until.weights


class Until:
    """Remembers the weights after a given step."""

    weights: list[float] = []

    def __init__(self, at):
        self.at = at

    def start(self, algorithm, folder):
        self.algorithm = algorithm

    def step(self, step, metrics):
        if step == self.at:
            Until.weights = self.algorithm.weight.tolist()

    def end(self, result):
        pass


def test_without_keep_best_the_last_weights_are_exported(tmp_path):
    walk = Walk(evaluations=[1.0, 2.0, 3.0])
    result = run(tmp_path, walk, evaluate_every=2, keep_best=False)
    assert exported(tmp_path) == walk.weight.tolist()
    assert (result.best_step, result.exported_step) == (2, 6)


def test_nan_is_never_the_best(tmp_path):
    result = run(tmp_path, Walk(evaluations=[float("nan"), 2.0, float("nan")]), evaluate_every=2)
    assert (result.best_step, result.best_value) == (4, 2.0)


def test_early_stopping_counts_evaluations_without_improvement(tmp_path):
    walk = Walk(total_steps=20, evaluations=[3.0, 1.0, 2.0, 2.0, 0.5])
    result = run(tmp_path, walk, evaluate_every=2, early_stopping=2)
    assert (result.steps, result.best_step, result.stopped_early) == (8, 4, True)


def test_a_limit_of_the_algorithm_ends_the_run_with_the_best_weights_before_it(tmp_path):
    """The third evaluation is the best by its number, and it is past the limit."""
    walk = Walk(total_steps=20, evaluations=[3.0, 2.0, 1.0], past_limit_at=3)
    result = run(tmp_path, walk, evaluate_every=2)
    assert (result.steps, result.best_step, result.exported_step, result.stopped_early) == (6, 4, 4, True)


def test_without_held_out_data_the_last_weights_are_exported(tmp_path):
    walk = Walk()
    result = run(tmp_path, walk, evaluate_every=2)
    assert exported(tmp_path) == walk.weight.tolist()
    assert result.best_step is None


def test_a_run_of_nothing_but_nan_stops_with_a_cure(tmp_path):
    with pytest.raises(RunFailed, match=f"not finite {MAX_SKIPPED_IN_A_ROW} times in a row; .*; lower train.learning"):
        run(tmp_path, Walk(total_steps=50, skip=lambda step: step >= 3))
    bad = checkpoint.load(tmp_path / "bad_batch" / f"step-{3 + MAX_SKIPPED_IN_A_ROW:06d}")
    batch = read_state(tmp_path / "bad_batch" / f"step-{3 + MAX_SKIPPED_IN_A_ROW:06d}" / "batch")
    assert batch["ids"] == [1, 2] and bad["metrics"]["skipped"] == 1
    assert rows(tmp_path)[-1]["step"] == 3 + MAX_SKIPPED_IN_A_ROW
    assert rows(tmp_path)[-1]["skipped"] == 1


def test_skipped_steps_that_are_not_in_a_row_do_not_stop_it_and_are_counted(tmp_path, capsys):
    assert run(tmp_path, Walk(total_steps=20, skip=lambda step: step % MAX_SKIPPED_IN_A_ROW != 0)).steps == 20
    assert "step 20/20: 16 steps left an update out: the loss or the gradient was not finite" in capsys.readouterr().err


def test_a_run_without_steps_says_so(tmp_path):
    with pytest.raises(UserError, match="no step to train"):
        run(tmp_path, Walk(total_steps=0))


def test_the_best_weights_are_forgotten_when_the_last_are_better(tmp_path):
    walk = Walk(evaluations=[2.0, 3.0, 1.0])
    run(tmp_path, walk, evaluate_every=2, save_every=1)
    assert walk.kept is None and exported(tmp_path) == walk.weight.tolist()


def test_a_full_disk_costs_the_checkpoint_and_not_the_run(tmp_path, monkeypatch, capsys):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(state_files, "save_file", full)
    assert run(tmp_path, Walk(), save_every=2).steps == 6
    assert "could not be saved" in capsys.readouterr().err


def test_a_signal_at_the_last_step_lets_the_run_finish(tmp_path):
    assert run(tmp_path, Walk(signal_at=5)).steps == 6
    assert (tmp_path / "model").exists()


def test_handlers_are_given_back(tmp_path):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    run(tmp_path, Walk())
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_callbacks_see_every_step_and_the_end(tmp_path):
    class Watcher:
        def __init__(self):
            self.calls = []

        def start(self, algorithm, folder):
            self.calls.append(("start", folder.path.name))

        def step(self, step, metrics):
            self.calls.append((step, metrics["loss"] is not None))

        def end(self, result):
            self.calls.append(("end", result.steps))

    watcher = Watcher()
    run(tmp_path / "r", Walk(total_steps=3), callbacks=[watcher], log_every=100)
    assert watcher.calls == [("start", "r"), (1, True), (2, True), (3, True), ("end", 3)]


def test_a_tracker_that_cannot_write_does_not_stop_the_run(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "tensorboard").write_text("a file where the folder should be")
    assert run(tmp_path / "run", Walk(), resume=True, tensorboard=True).steps == 6
    assert "TensorBoard stopped" in capsys.readouterr().err


TWICE = """
import os, signal, sys, time
sys.path.insert(0, sys.argv[2])
from walk import Walk, run
class Slow(Walk):
    def step(self, step, learning_rate):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.6)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)
run(sys.argv[1], Slow())
"""


def test_a_second_signal_ends_the_process_at_once(tmp_path):
    arguments = [sys.executable, "-c", TWICE, str(tmp_path / "run"), os.path.dirname(__file__)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "finishing this step, then saving; once more to end at once" in done.stderr
    assert done.stderr.endswith("ended at once; what was saved before is whole\n")


TOGETHER = TWICE.replace("time.sleep(0.6)", "").replace("time.sleep(60)", "return super().step(step, learning_rate)")


def test_a_signal_that_a_wrapper_sends_again_is_one_signal(tmp_path):
    """Ctrl-C reaches every process of a terminal, and a wrapper passes its own on: the run still saves."""
    arguments = [sys.executable, "-c", TOGETHER, str(tmp_path / "run"), os.path.dirname(__file__)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=300)
    assert "RunStopped" in done.stderr and "stopped on request; continue with --resume auto" in done.stderr
    assert checkpoint.newest_valid(tmp_path / "run" / "checkpoints")[0] is not None


def test_the_status_says_what_the_loop_is_doing(tmp_path):
    walk, seen = Walk(total_steps=2, evaluations=[1.0, 1.0]), []

    def look(name):
        real = getattr(walk, name)

        def looking(*arguments):
            found = read_status(tmp_path)
            seen.append((name, found.life, found.status.state, found.status.total))
            return real(*arguments)

        setattr(walk, name, looking)

    for name in ("step", "evaluate", "numbers", "_export"):
        look(name)
    with RunFolder(tmp_path) as folder:
        folder.set_config({"verb": "sft"})
        run_loop(walk, config(save_every=2), folder, 0)
    training = ("step", "running", "training", 2)
    assert seen == [
        training,
        training,
        ("evaluate", "running", "evaluating", 2),
        ("numbers", "running", "training", 2),
        ("_export", "running", "saving", 2),
    ]
    found = read_status(tmp_path)
    assert (found.life, found.status.step) == ("finished", 2)


def test_what_a_step_learnt_from_is_shown_at_the_first_step_and_then_now_and_then(tmp_path):
    walk = Walk(total_steps=2 * TRAIN_SAMPLES_EVERY + 3)
    walk.train_samples = lambda: [{"split": "train"}]
    run(tmp_path, walk)
    assert [row["step"] for row in rows(tmp_path, "samples.jsonl")] == [1, TRAIN_SAMPLES_EVERY, 2 * TRAIN_SAMPLES_EVERY]


def test_the_card_gets_the_heldout_numbers_of_the_exported_step(tmp_path):
    given = {}

    class Best(Walk):
        def _export(self, folder, results):
            given.update(results)
            super()._export(folder, results)

    run(tmp_path, Best(total_steps=3, evaluations=[1.0, 0.5, 2.0]), evaluate_every=1)
    assert given == {"results": {"exported step": "2 of 3", "eval/loss": "0.5"}}
