"""A run that goes on: to the bit as if it had not been stopped, from the newest checkpoint that is whole."""

from __future__ import annotations

import pytest
import torch

from concordant.core.errors import RunFailed, RunStopped, UserError
from concordant.training import checkpoint
from concordant.training.loop import MAX_SKIPPED_IN_A_ROW
from tests.training.walk import Walk, exported, rows, run, timeless


def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(tmp_path):
    settings = {"evaluate_every": 2, "save_every": 1}
    run(tmp_path / "whole", Walk(evaluations=[3.0, 1.0, 2.0]), **settings)
    with pytest.raises(RunStopped, match="step 3/6: stopped on request; continue with --resume auto"):
        run(tmp_path / "cut", Walk(evaluations=[3.0, 1.0, 2.0], signal_at=2), **settings)
    assert not (tmp_path / "cut" / "model").exists()
    run(tmp_path / "cut", Walk(evaluations=[3.0, 1.0, 2.0]), resume=True, **settings)
    assert exported(tmp_path / "cut") == exported(tmp_path / "whole")
    assert timeless(tmp_path / "cut") == timeless(tmp_path / "whole")
    assert rows(tmp_path / "cut", "samples.jsonl") == rows(tmp_path / "whole", "samples.jsonl")


def test_the_best_weights_survive_a_resume(tmp_path):
    with pytest.raises(RunStopped):
        run(tmp_path, Walk(evaluations=[1.0, 2.0, 3.0], signal_at=2), evaluate_every=2)
    result = run(tmp_path, Walk(evaluations=[1.0, 2.0, 3.0]), resume=True, evaluate_every=2)
    assert (result.best_step, result.exported_step) == (2, 2)


def damage(folder):
    newest = checkpoint.newest_valid(folder / "checkpoints")[0]
    (newest / "policy" / "state.safetensors").write_bytes(b"\0" * 10)


def test_a_damaged_checkpoint_falls_back_one_and_the_logs_follow(tmp_path):
    with pytest.raises(RunStopped):
        run(tmp_path, Walk(signal_at=3), save_every=1)
    damage(tmp_path)
    run(tmp_path, Walk(), resume=True, save_every=1)
    run(tmp_path / "whole", Walk())
    assert exported(tmp_path) == exported(tmp_path / "whole")
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_a_damaged_checkpoint_is_not_one_of_those_that_are_kept(tmp_path):
    with pytest.raises(RunStopped):
        run(tmp_path, Walk(signal_at=4), save_every=2, keep_last=2)  # saves 2, 4 and, asked to stop, 5
    damage(tmp_path)
    with pytest.raises(RunStopped):
        run(tmp_path, Walk(signal_at=4), resume=True, save_every=10, keep_last=2)
    there = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert there == ["damaged-step-000005", "step-000004", "step-000005"]


def test_a_run_whose_checkpoints_are_all_damaged_is_left_as_it_is(tmp_path):
    with pytest.raises(RunStopped):
        run(tmp_path, Walk(signal_at=3), save_every=1, keep_last=1)
    damage(tmp_path)
    with pytest.raises(UserError, match="is whole: .*policy/state.safetensors is not as it was written"):
        run(tmp_path, Walk(), resume=True)
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3, 4]


def test_resuming_a_finished_run_trains_nothing_and_says_so(tmp_path, capsys):
    run(tmp_path, Walk(), save_every=6)
    before = (tmp_path / "metrics.jsonl").read_text()
    result = run(tmp_path, Walk(), resume=True, save_every=6)
    assert "the run is complete; nothing left to train" in capsys.readouterr().err
    assert (result.steps, (tmp_path / "metrics.jsonl").read_text()) == (6, before)


def test_resume_without_a_checkpoint_starts_again(tmp_path, capsys):
    run(tmp_path, Walk(), save_minutes=0)
    run(tmp_path, Walk(), resume=True)
    assert "no checkpoint to continue from; starting at step 0" in capsys.readouterr().err
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_resume_with_another_length_is_refused(tmp_path):
    run(tmp_path, Walk(), save_every=3)
    with pytest.raises(UserError, match="step-000006 belongs to a run with other settings:\n  total_steps: 6 -> 8\n"):
        run(tmp_path, Walk(total_steps=8), resume=True)


def interrupted(tmp_path, at, make, **settings):
    """The result of a run that was stopped after step ``at`` and resumed."""
    with pytest.raises(RunStopped):
        run(tmp_path, make(signal_at=at - 1), **settings)
    return run(tmp_path, make(), resume=True, **settings)


def test_patience_goes_on_over_a_resume(tmp_path):
    """Two evaluations without improvement, one on either side of the interruption."""

    def walk(**changes):
        return Walk(total_steps=20, evaluations=[1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0], **changes)

    settings = {"evaluate_every": 2, "early_stopping": 2}
    assert run(tmp_path / "whole", walk(), **settings).steps == 6
    assert interrupted(tmp_path / "cut", 5, walk, **settings).steps == 6


def test_skipped_steps_are_counted_over_a_resume(tmp_path, capsys):
    """Three in a row before the interruption and two after it are five in a row."""

    def walk(of):
        return lambda **changes: Walk(total_steps=20, skip=lambda step: step in of, **changes)

    interrupted(tmp_path / "some", 3, walk({1, 2, 7}))
    assert "step 20/20: 3 steps left an update out" in capsys.readouterr().err
    with pytest.raises(RunFailed, match=f"step 8/20: .*not finite {MAX_SKIPPED_IN_A_ROW} times in a row"):
        interrupted(tmp_path / "many", 6, walk({3, 4, 5, 6, 7}))


def test_the_processs_own_draws_depend_on_the_step_alone(tmp_path):
    """Dropout and people's reward functions draw from them, and a resumed process has not drawn before."""

    class Draws(Walk):
        def step(self, step, learning_rate):
            return super().step(step, learning_rate) | {"loss": float(torch.rand(()))}

    run(tmp_path / "whole", Draws())
    interrupted(tmp_path / "cut", 3, Draws)
    assert timeless(tmp_path / "cut") == timeless(tmp_path / "whole")
    assert len({row["loss"] for row in timeless(tmp_path / "whole")}) == 6


def test_a_disk_that_fills_between_two_exports_leaves_whole_folders_and_a_resume_writes_the_rest(tmp_path):
    class Two(Walk):
        full = True

        @property
        def exports(self):
            return {"adapter": self._export, "model": self._fail if self.full else self._export}

        def _fail(self, folder, results):
            (folder / "half").write_text("x")
            raise OSError("No space left on device")

    with pytest.raises(RunFailed, match="the model could not be written"):
        run(tmp_path, Two(total_steps=2), save_every=1)
    assert [path.name for path in (tmp_path / "adapter").iterdir()] == ["weight.json"]
    assert not (tmp_path / "model").exists() and not list(tmp_path.glob(".*.new"))
    walk = Two(total_steps=2)
    walk.full = False
    result = run(tmp_path, walk, resume=True, save_every=1)
    assert result.model == tmp_path / "model" and (tmp_path / "adapter" / "weight.json").is_file()


@pytest.mark.parametrize(("before", "after"), [("model", "adapter"), ("adapter", "model")])
def test_what_an_earlier_end_exported_and_this_one_does_not_is_removed(tmp_path, before, after):
    """A run is resumed with another train.export, so that one folder is not written again."""

    class One(Walk):
        name = before

        @property
        def exports(self):
            return {self.name: self._export}

    run(tmp_path, One(total_steps=2), save_every=1)
    walk = One(total_steps=2)
    walk.name = after
    assert run(tmp_path, walk, resume=True, save_every=1).model == tmp_path / after
    assert (tmp_path / after / "weight.json").is_file() and not (tmp_path / before).exists()
